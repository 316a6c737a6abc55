"""The sort-free filter kernel against the CPU sampler's thresholds."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.candidates import GROUP
from engine.kernels.filters import CANDIDATES, filter_thresholds
from engine.sampling.filters import find_candidates
from engine.sampling_params import SamplingParams

CASES = [
    SamplingParams(temperature=1.0, top_k=5),
    SamplingParams(temperature=0.7, top_p=0.8),
    SamplingParams(temperature=0.7, top_k=20, top_p=0.8),
    SamplingParams(temperature=1.5, top_k=1),
    SamplingParams(temperature=1.0, min_p=0.1),
    SamplingParams(temperature=0.3, top_k=300, top_p=0.99, min_p=0.01),
    SamplingParams(temperature=1.0, top_p=1e-9),
    SamplingParams(temperature=8.0, top_p=0.6),
    SamplingParams(temperature=1.0, top_k=1400, top_p=0.5),
    SamplingParams(temperature=0.5, top_k=1500, top_p=0.9),
]


@pytest.mark.parametrize("candidates", [CANDIDATES, 256, GROUP.value])
@pytest.mark.parametrize("rounded", [False, True])
def test_thresholds_keep_the_same_tokens_as_sorting(rounded: bool, candidates: int, device: torch.device) -> None:
    """`rounded`: many equal logits, which stand or fall together. The fewer candidates, the more rows are searched
    whole."""
    logits = torch.randn(len(CASES) + 1, 1500, generator=torch.Generator().manual_seed(0)) * 3
    logits = (logits * 4).round() / 4 if rounded else logits
    logits = torch.cat((logits, logits[1:]))  # the same cases again, where only a few tokens are allowed
    few = torch.randint(0, 1500, (len(CASES), 7), generator=torch.Generator().manual_seed(1))
    for row, kept in zip(logits[len(CASES) + 1 :], few, strict=True):
        row[torch.ones(1500, dtype=torch.bool).index_fill_(0, kept, False)] = float("-inf")
    cases = [*CASES, *CASES]
    logits = logits.to(device)
    numbers = list(range(1, len(cases) + 1))
    column = {name: [getattr(case, name) for case in cases] for name in ("top_k", "top_p", "min_p", "temperature")}
    thresholds = filter_thresholds(
        logits,
        torch.tensor(numbers, dtype=torch.int32, device=device),
        torch.tensor(column["top_k"], dtype=torch.int32, device=device),
        torch.tensor(column["top_p"], device=device),
        torch.tensor(column["min_p"], device=device),
        torch.tensor(column["temperature"], device=device),
        candidates,
    )
    assert float(thresholds[0]) == float("-inf"), "rows without filters keep everything"
    scaled = logits[1:] / torch.tensor(column["temperature"], device=device)[:, None]
    expected = scaled >= find_candidates(scaled, cases, scaled.shape[1]).threshold[:, None]
    expected &= logits[1:] > float("-inf")
    kept = (logits[1:] >= thresholds[1:, None]) & (logits[1:] > float("-inf"))
    assert kept.sum(1).tolist() == expected.sum(1).tolist()
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("vocab", [1, 63, 65, 8192, 8193, 16400])
def test_rows_end_within_a_group_and_begin_other_blocks(vocab: int, device: torch.device) -> None:
    """What lies beyond a row's end is not looked at, and its best tokens may be in any block, also in the last."""
    cases = [SamplingParams(temperature=1.0, top_k=3), SamplingParams(temperature=0.7, top_k=20, top_p=0.8)]
    cases += [SamplingParams(temperature=0.7, top_p=0.9), SamplingParams(temperature=1.0, min_p=0.2)]
    logits = torch.full((len(cases), vocab + 70), 1e30)
    logits[:, :vocab] = torch.randn(len(cases), vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    logits[:, vocab - 1] = 8.0
    usable = logits.to(device)[:, :vocab]
    thresholds = filter_thresholds(
        usable,
        torch.arange(len(cases), dtype=torch.int32, device=device),
        torch.tensor([case.top_k for case in cases], dtype=torch.int32, device=device),
        *(
            torch.tensor([getattr(case, name) for case in cases], device=device)
            for name in ("top_p", "min_p", "temperature")
        ),
    )
    scaled = usable / torch.tensor([case.temperature for case in cases], device=device)[:, None]
    expected = scaled >= find_candidates(scaled, cases, vocab).threshold[:, None]
    assert torch.equal(usable >= thresholds[:, None], expected)
