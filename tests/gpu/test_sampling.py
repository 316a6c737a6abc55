"""The device's sampling against the CPU sampler on the same logits, at the real vocabulary's size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")

from engine.errors import RequestError
from engine.kernels.step_state import StateLayout
from engine.request import EngineRequest, GrammarSpec, Sequence
from engine.runner.batch import ScheduledRow
from engine.runner.cuda_special import SpecialResult, SpecialSampler
from engine.runner.slot_mirror import SlotMirror
from engine.sampling.row import SamplingRow
from engine.sampling.sampler import Sampler
from engine.sampling_params import SamplingParams

CUDA = torch.device("cuda")
VOCAB, PADDED = 151_669, 151_936
PARAMS = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=0.7, seed=2**63 + 17),
    SamplingParams(temperature=2.0, seed=-5),
    SamplingParams(temperature=1.0, seed=3, top_k=1),
    SamplingParams(temperature=0.7, seed=4, top_k=20, top_p=0.8),
    SamplingParams(temperature=1.0, seed=5, top_p=0.95),
    SamplingParams(temperature=1.0, seed=6, min_p=0.05),
    SamplingParams(temperature=0.6, seed=7, top_k=1000, top_p=0.99, min_p=0.001),
    SamplingParams(temperature=1.0, seed=8, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3),
    SamplingParams(temperature=0.0, repetition_penalty=1.5),
    SamplingParams(temperature=1.0, seed=9, logit_bias={5: 20.0, 100: -100.0, 151_668: 3.0}),
    SamplingParams(temperature=1.0, seed=10, allowed_token_ids=(7, 8, 90_000)),
    SamplingParams(temperature=1.0, seed=11, min_tokens=100, eos_token_ids=(151_645,), stop_token_ids=(3,)),
    SamplingParams(temperature=1.0, seed=12, logprobs=5),
]


def rows_of(params: list[SamplingParams], grammar: GrammarSpec | None = None) -> list[ScheduledRow]:
    generator = torch.Generator().manual_seed(4)
    rows = []
    for number, sampling in enumerate(params):
        ids = torch.randint(0, VOCAB, (30 + 7 * number,), generator=generator).tolist()
        request = EngineRequest(str(number), tuple(ids[:20]), sampling, grammar=grammar)
        sequence = Sequence(request, ids, 20, slot=(5 * number) % len(params) if len(params) % 5 else number)
        rows.append(ScheduledRow(sequence, len(ids) - 1, 1, True))
    return rows


class Compiler:
    """Stands for the compiler of all grammars: row n allows the tokens of `allowed[n]`, None breaks."""

    def __init__(self, allowed: list[list[int] | None] | None = None) -> None:
        self._allowed = iter(allowed or ())

    def start(self, spec: GrammarSpec) -> Any:
        return Mask(next(self._allowed))


def on_device(rows: list[ScheduledRow], logits: torch.Tensor, compiler: Compiler) -> tuple[list[int], SpecialResult]:
    """Through the runner's own sampler, from a state that the runner's own mirror has filled."""
    layout = StateLayout(len(rows), len(rows), 4)
    mirror = SlotMirror(layout, CUDA)
    mirror.decode_rows(tuple(rows), len(rows))
    state, updates = mirror.state, torch.tensor(mirror.updates, dtype=torch.int32, device=CUDA).view(-1, 2)
    state[updates[:, 0].long()] = updates[:, 1]
    sampled = torch.zeros(len(rows), dtype=torch.int32, device=CUDA)
    sampler = SpecialSampler(layout, VOCAB, compiler, CUDA)
    slots = state[layout.row_slot : layout.row_slot + len(rows)]
    logits = logits.to(CUDA)
    result = sampler.sample(sampler.plan(tuple(rows), logits), tuple(rows), logits, state, slots, sampled)
    return sampled.tolist(), result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(6))
def test_equal_logits_give_equal_tokens(seed: int, dtype: torch.dtype) -> None:
    """bf16 has many equal logits: the lowest id of the best wins on both."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(len(PARAMS), PADDED, generator=generator) * (2 + seed)).to(dtype)
    logits[:, VOCAB:] = 1000.0  # padding of the matrix must never be sampled
    rows = rows_of(PARAMS)
    tokens, result = on_device(rows, logits, Compiler())
    cpu_rows = [SamplingRow(p, row.sequence.token_ids, 20) for p, row in zip(PARAMS, rows, strict=True)]
    expected = Sampler(VOCAB).sample(logits.float(), cpu_rows)
    assert expected.failed == {}
    assert tokens == [token.token_id for token in expected.tokens if token]
    torch.cuda.synchronize()
    reported = result.with_logprobs([token and SimpleNamespace(token_id=token.token_id) for token in expected.tokens])  # type: ignore[misc]
    ours, theirs = cast(Any, reported[-1]).logprobs, cast(Any, expected.tokens[-1]).logprobs
    assert (ours.rank, ours.top_logprobs) == (theirs.rank, pytest.approx(theirs.top_logprobs, abs=1e-3))
    assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)


class Mask:
    """Stands for a matcher that allows these tokens; None: it breaks."""

    def __init__(self, allowed: list[int] | None) -> None:
        self._allowed = allowed

    def accept(self, token_id: int) -> None:
        """Any."""

    def mask(self) -> torch.Tensor:
        if self._allowed is None:
            raise RequestError("the grammar allows nothing here")
        bits = torch.zeros(-(-VOCAB // 32) * 32, dtype=torch.bool)
        bits[self._allowed] = True
        weights = torch.tensor([1 << bit for bit in range(31)] + [-(1 << 31)], dtype=torch.int64)
        return (bits.view(-1, 32) * weights).sum(1).to(torch.int32)


def test_grammar_masks_on_the_device() -> None:
    """Every bit of a word, first and last tokens; broken ones fail alone."""
    allowed: list[list[int] | None] = [[31], [0], [VOCAB - 1], None, list(range(64, 96)), [63, 95, 127]]
    params = [SamplingParams(temperature=float(number % 2), seed=number) for number in range(len(allowed))]
    rows = rows_of(params, GrammarSpec("regex", "x"))
    logits = torch.randn(len(rows), PADDED, generator=torch.Generator().manual_seed(0)).bfloat16()
    for _ in range(20):  # masks follow one another through the same page-locked memory
        tokens, result = on_device(rows, logits, Compiler(allowed))
        assert list(result.failed) == ["3"]
        for number, (token, choices) in enumerate(zip(tokens, allowed, strict=True)):
            if choices is not None:
                cpu = SamplingRow(params[number], rows[number].sequence.token_ids, 20, None)
                masked = torch.full((1, PADDED), float("-inf"))
                masked[0, choices] = logits[number, choices].float()
                assert [token] == [t.token_id for t in Sampler(VOCAB).sample(masked, [cpu]).tokens if t]
