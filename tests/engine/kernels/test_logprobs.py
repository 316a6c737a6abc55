"""Log-probabilities of what many rows sampled are computed in parts, so that memory stays bounded."""

from __future__ import annotations

import pytest
import torch

from engine.runner import cuda_special
from engine.runner.batch import SampledToken
from engine.runner.cuda_special import SpecialResult


@pytest.mark.parametrize("rows_at_once", [1, 2, 64])
def test_parts_equal_a_plain_softmax(
    rows_at_once: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_special, "LOGPROB_ROWS", rows_at_once)
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).to(device)
    sampled = torch.tensor([3, 9, -1, 49, 0, 7], dtype=torch.int32, device=device)
    numbers, top = [0, 1, 3, 5], [0, 3, 50, 1]
    result = SpecialResult()
    result.report(numbers, torch.tensor(numbers, device=device), logits, sampled, top)
    if device.type == "cuda":
        torch.cuda.synchronize()
    plain: list[SampledToken | None] = [SampledToken(int(i)) if i >= 0 else None for i in sampled]
    reported = result.with_logprobs(plain)
    expected = logits.double().log_softmax(1)
    for number, count in zip(numbers, top, strict=True):
        token = reported[number]
        assert token is not None and token.logprobs is not None
        row = expected[number]
        assert token.logprobs.logprob == pytest.approx(float(row[token.token_id]), abs=1e-5)
        assert token.logprobs.rank == int((row > row[token.token_id]).sum()) + 1
        assert list(token.logprobs.top_ids) == row.argsort(descending=True)[:count].tolist()
        assert token.logprobs.top_logprobs == pytest.approx(
            row.sort(descending=True).values[:count].tolist(), abs=1e-5
        )
    assert reported[2] is None
    assert reported[4] is not None and reported[4].logprobs is None, "nobody asked for them"
