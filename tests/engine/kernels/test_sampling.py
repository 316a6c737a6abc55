"""The sampling kernel and the step's state against plain torch."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.sampling import gumbel_sample
from engine.kernels.step_state import StateLayout, apply_updates, prepare_rows
from engine.sampling.noise import gumbel, key_tensors

LAYOUT = StateLayout(slots=6, rows=8, table_width=5)


def bits(value: float) -> int:
    return int(torch.tensor(value, dtype=torch.float32).view(torch.int32))


def words(seed: int) -> tuple[int, int]:
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    return low - (low >> 31 << 32), high - (high >> 31 << 32)


def state_with(rows: list[tuple[int, int, float, int]], device: torch.device) -> torch.Tensor:
    """rows: (slot, position, temperature, seed)."""
    state = LAYOUT.fresh(device)
    for number, (slot, position, temperature, seed) in enumerate(rows):
        state[LAYOUT.position + slot] = position
        state[LAYOUT.temperature + slot] = bits(temperature)
        state[LAYOUT.seed_low + slot], state[LAYOUT.seed_high + slot] = words(seed)
        state[LAYOUT.row_slot + number] = slot
    return state


def row_slots(state: torch.Tensor, count: int) -> torch.Tensor:
    return state[LAYOUT.row_slot : LAYOUT.row_slot + count]


@pytest.mark.parametrize("vocab", [100, 4096, 9001])
def test_seeded_rows_equal_the_reference(vocab: int, device: torch.device) -> None:
    rows = [(4, 10, 0.7, 2**63 + 5), (0, 0, 1.0, 7), (2, 99, 1.3, 2**40 + 11)]
    state = state_with(rows, device)
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(3)).to(device)
    sampled = torch.empty(3, dtype=torch.int32, device=device)
    gumbel_sample(logits, state, LAYOUT, row_slots(state, 3), sampled)
    key0, key1 = key_tensors([(seed, position + 1) for _, position, _, seed in rows], device)
    noise = gumbel(key0, key1, torch.arange(vocab, dtype=torch.int32, device=device).expand(3, vocab))
    temperatures = torch.tensor([row[2] for row in rows], device=device)[:, None]
    expected = (logits / temperatures + noise).argmax(-1)
    assert sampled.tolist() == expected.tolist()
    for number, (slot, position, _, _) in enumerate(rows):
        assert int(state[LAYOUT.last_token + slot]) == int(expected[number])
        assert int(state[LAYOUT.position + slot]) == position + 1


def test_greedy_padding_and_broken_rows(device: torch.device) -> None:
    """A logit that is infinite is as bad as one that is no number; as on the CPU, even for greedy rows."""
    slots = [(1, 5, 0.0, 1), (LAYOUT.slots, 0, 0.0, 0), (3, 5, 1.0, 1), (0, 5, 0.0, 1), (2, 5, 1.0, 1)]
    state = state_with(slots, device)
    logits = torch.randn(5, 5000, generator=torch.Generator().manual_seed(0)).to(device)
    logits[0, 4321] = 50.0
    logits[2, 4999] = float("nan")
    logits[3:, 7] = float("inf")
    sampled = torch.empty(5, dtype=torch.int32, device=device)
    gumbel_sample(logits, state, LAYOUT, row_slots(state, 5), sampled)
    assert sampled.tolist()[0] == 4321
    assert sampled.tolist()[2:] == [-1, -1, -1]
    assert int(state[LAYOUT.position + LAYOUT.slots]) == 0, "the dummy slot never moves"


def test_the_first_of_equal_logits_wins(device: torch.device) -> None:
    state = state_with([(1, 5, 0.0, 1)], device)
    logits = torch.zeros(1, 9000, device=device)
    logits[0, [100, 5000, 8000]] = 2.0
    sampled = torch.empty(1, dtype=torch.int32, device=device)
    gumbel_sample(logits, state, LAYOUT, row_slots(state, 1), sampled)
    assert sampled.tolist() == [100]


def test_thresholds_mask_sampled_rows(device: torch.device) -> None:
    state = state_with([(1, 5, 1.0, 1), (2, 5, 1.0, 2)], device)
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0)).to(device)
    threshold = logits.max(-1).values
    sampled = torch.empty(2, dtype=torch.int32, device=device)
    gumbel_sample(logits, state, LAYOUT, row_slots(state, 2), sampled, threshold=threshold)
    assert sampled.tolist() == logits.argmax(-1).tolist()


def test_updates_then_a_step_with_decode_and_prefill_rows(device: torch.device) -> None:
    state, page, width = LAYOUT.fresh(device), 4, LAYOUT.table_width
    tables = {2: [7, 3, 9], 5: [1, 2], 0: [4]}
    pairs = [(LAYOUT.tables + slot * width + i, b) for slot, table in tables.items() for i, b in enumerate(table)]
    pairs += [
        (LAYOUT.last_token + 2, 42),
        (LAYOUT.position + 2, 9),
        (LAYOUT.last_token + 0, 17),
        (LAYOUT.position, 3),
    ]
    pairs += [(LAYOUT.row_slot + row, slot) for row, slot in enumerate((2, 0, 5))]
    apply_updates(state, torch.tensor(pairs, dtype=torch.int32, device=device))
    token_ids = torch.full((9,), -7, dtype=torch.int32, device=device)
    positions = torch.full((9,), -7, dtype=torch.int32, device=device)
    slots = torch.full((9,), -7, dtype=torch.int64, device=device)
    context = torch.tensor([0, 0, 7], dtype=torch.int32, device=device)
    block_table = torch.zeros(3, width, dtype=torch.int32, device=device)
    prepare_rows(state, LAYOUT, 3, 2, page, token_ids, positions, slots, context, block_table)
    assert token_ids.tolist() == [42, 17] + [-7] * 7
    assert positions.tolist() == [9, 3] + [-7] * 7
    assert slots.tolist() == [9 * page + 1, 4 * page + 3] + [-7] * 7
    assert context.tolist() == [10, 4, 7]
    assert block_table[0, :3].tolist() == [7, 3, 9]
    assert block_table[1, :1].tolist() == [4]
    assert block_table[2, :2].tolist() == [1, 2]
