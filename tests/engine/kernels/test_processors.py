"""Changes of many rows' logits at once against the code that goes row by row."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.processors import apply_masks, count_sampled, penalise
from engine.sampling.processors import apply_bitmask, process
from engine.sampling.row import SamplingRow
from engine.sampling_params import SamplingParams

VOCAB, PADDED = 5000, 5008
"""More than one block; rows of logits are wider than the vocabulary."""
PENALTIES = [(1.0, 0.0, 0.0), (1.3, 0.0, 0.0), (1.0, 0.7, 0.0), (1.0, 0.0, 0.4), (0.8, -0.5, 0.25)]


def random_logits(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, PADDED, generator=torch.Generator().manual_seed(seed)) * 5


def test_penalties_from_counts_equal_those_from_the_tokens(device: torch.device) -> None:
    """Rows of any order in slots of any order; one of the dummy slot stays as it is."""
    generator = torch.Generator().manual_seed(1)
    logits = random_logits(len(PENALTIES) + 1, 2)
    counts = torch.zeros((9, VOCAB), dtype=torch.int32)
    counts[8] = 7  # what has gathered in the dummy is nobody's
    slots, expected = [6, 2, 8, 0, 3, 5], logits[:, :VOCAB].clone()
    asked = [PENALTIES[0], PENALTIES[1], (5.0, 5.0, 5.0), *PENALTIES[2:]]
    for number, (slot, (repetition, presence, frequency)) in enumerate(zip(slots, asked, strict=True)):
        if slot == 8:
            continue
        ids = torch.randint(0, VOCAB, (60,), generator=generator).tolist()
        ids += [ids[3], ids[50], ids[50], VOCAB - 1, 0]
        params = SamplingParams(repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency)
        process(expected[number], SamplingRow(params, ids, 40))
        for token in ids[:40]:
            counts[slot, token] |= 1
        for token in ids[40:]:
            counts[slot, token] += 2
    found = logits.to(device)
    columns = (torch.tensor(column, device=device) for column in zip(*asked, strict=True))
    owners = torch.tensor(slots, dtype=torch.int32, device=device)
    penalise(found[:, :VOCAB], counts.to(device), owners, *columns)
    assert torch.equal(found[:, :VOCAB].cpu(), expected)
    assert torch.equal(found[:, VOCAB:].cpu(), logits[:, VOCAB:])


@pytest.mark.parametrize("words", [VOCAB // 32 + 1, 100])
def test_masks_forbid_what_their_bits_forbid(words: int, device: torch.device) -> None:
    """Also with fewer bits than tokens: those past the end are forbidden."""
    logits = random_logits(4, 3)
    masks = torch.randint(-(2**31), 2**31, (3, words), generator=torch.Generator().manual_seed(4)).int()
    masks[1] = 0
    numbers = [3, 0, 2]
    expected = logits.clone()
    for number, mask in zip(numbers, masks, strict=True):
        apply_bitmask(expected[number, :VOCAB], mask)
    found = logits.to(device)
    apply_masks(found[:, :VOCAB], torch.tensor(numbers, dtype=torch.int32, device=device), masks.to(device))
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("rows", [1, 7, 200])
def test_each_row_counts_its_own_token(rows: int, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(rows)
    slots = torch.randperm(rows + 3, generator=generator)[:rows].int()
    slots[rows // 2] = rows + 3  # the dummy
    sampled = torch.randint(-2, 40, (rows,), generator=generator).int()
    counts = torch.randint(0, 9, (rows + 4, 40), generator=generator).int()
    expected = counts.clone()
    for slot, token in zip(slots.tolist(), sampled.tolist(), strict=True):
        if slot < rows + 3 and token >= 0:
            expected[slot, token] += 2
    found = counts.to(device)
    count_sampled(found, slots.to(device), sampled.to(device))
    assert torch.equal(found.cpu(), expected)
