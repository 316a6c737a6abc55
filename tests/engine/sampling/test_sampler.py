"""The sampler against numpy, over all parameters, alone and in batches; failures stay in their row."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.native.library import load_native
from engine.native.sampler import NativeChooser
from engine.sampling import filters
from engine.sampling.row import SamplingRow
from engine.sampling.sampler import Sampler
from engine.sampling_params import SamplingParams
from tests.engine.sampling import reference

VOCAB = 300
both = pytest.mark.parametrize("chooser", ["torch", "native"])


def make_row(
    seed: int = 0, tokens: list[int] | None = None, mask: torch.Tensor | None = None, **params: Any
) -> SamplingRow:
    return SamplingRow(SamplingParams(**{"seed": seed, **params}), tokens or [3, 4, 5], 2, mask)


def make_logits(rows: int, seed: int = 0, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 4


@functools.cache
def native_chooser() -> NativeChooser:
    native = load_native(1)
    if native is None:
        pytest.skip("the native kernels cannot be compiled here")
    return NativeChooser(native)


def make_sampler(vocab: int, chooser: str) -> Sampler:
    return Sampler(vocab, chooser=native_chooser() if chooser == "native" else None)


def sample(logits: torch.Tensor, rows: list[SamplingRow], chooser: str = "torch") -> list[int]:
    output = make_sampler(logits.shape[1], chooser).sample(logits.clone(), rows)
    assert output.failed == {}
    return [token.token_id for token in output.tokens if token is not None]


any_params = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 1e-6, 0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([-1, 0, 1, 2, 7, 50, 299, 300, 1000]),
        "top_p": st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.1, 1e-6]),
        "min_p": st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        "repetition_penalty": st.sampled_from([0.5, 1.0, 1.3]),
        "presence_penalty": st.sampled_from([-1.0, 0.0, 1.5]),
        "frequency_penalty": st.sampled_from([-0.5, 0.0, 0.7]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-20, 20), max_size=4),
        "allowed_token_ids": st.lists(st.integers(0, VOCAB - 1), max_size=6).map(
            lambda ids: (*ids, 250) if ids else ()
        ),
        "bad_words": st.lists(st.lists(st.integers(3, 9), min_size=1, max_size=4).map(tuple), max_size=4).map(tuple),
        "min_tokens": st.integers(0, 3),
        "eos_token_ids": st.just((7, 8)),
        "stop_token_ids": st.just((9,)),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@both
@settings(max_examples=120)
@given(
    params=st.lists(any_params, min_size=1, max_size=5),
    candidates=st.sampled_from([4, 16, 1024]),
    seed=st.integers(0, 10_000),
    histories=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=12), min_size=5, max_size=5),
)
def test_every_row_as_in_numpy(
    chooser: str, params: list[dict[str, Any]], candidates: int, seed: int, histories: list[list[int]]
) -> None:
    """Also with few candidates, so that rows have to be sorted whole."""
    rows = [make_row(tokens=history, **p) for p, history in zip(params, histories, strict=False)]
    logits = make_logits(len(rows), seed)
    expected = [reference.sample(logits[n].numpy(), row) for n, row in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.sampling.sampler.CANDIDATES", candidates)
        found = sample(logits, rows, chooser)
    for number, row in enumerate(rows):
        if found[number] != expected[number]:
            assert_nearly_equal(logits[number], row, found[number], expected[number])


def assert_nearly_equal(logits: torch.Tensor, row: SamplingRow, one: int, other: int) -> None:
    """float32 and float64 may part only where two tokens score the same or a border runs through one."""
    scores = reference.process(logits.double().numpy(), row)
    if not row.params.greedy:
        scores /= row.params.temperature
        kept = reference.keep(scores, row)
        if kept[one] != kept[other]:
            probability = np.exp(scores - scores.max())
            probability /= probability.sum()
            border = np.cumsum(np.sort(probability)[::-1])
            assert np.abs(border - row.params.top_p).min() < 1e-5 or row.params.min_p > 0
            return
        scores += reference.gumbel(row.params.seed or 0, row.position, np.arange(VOCAB, dtype=np.uint32))
    assert scores[one] == pytest.approx(scores[other], abs=1e-4)


@both
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.0},
        {"top_k": 20},
        {"top_p": 0.9, "temperature": 0.7},
        {"min_p": 0.05},
        {"top_k": 40, "top_p": 0.8, "repetition_penalty": 1.1},
    ],
)
def test_same_token_alone_and_in_any_batch(chooser: str, params: dict[str, Any]) -> None:
    others = [{}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.3}, {"presence_penalty": 2.0}]
    logits = make_logits(len(others) + 1, 11)
    for seed in range(20):
        row = make_row(seed, **params)
        alone = sample(logits[:1], [row], chooser)
        batch = [row, *(make_row(seed + n, **other) for n, other in enumerate(others))]
        assert sample(logits, batch, chooser)[0] == alone[0]
        assert sample(logits.flip(0), batch[::-1], chooser)[-1] == alone[0]


@both
def test_a_filter_that_keeps_all_changes_nothing(chooser: str) -> None:
    """All ways through the sampler give one token."""
    logits = make_logits(1, 5)
    for seed in range(50):
        plain = sample(logits, [make_row(seed)], chooser)
        assert sample(logits, [make_row(seed, min_p=1e-12)], chooser) == plain
        assert sample(logits, [make_row(seed, top_k=VOCAB - 1)], chooser) == plain


@both
def test_frequencies_follow_the_distribution(chooser: str) -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0, 1.5]])
    counts = np.zeros(5)
    rows = [make_row(seed, temperature=1.3) for seed in range(6_000)]
    for token in sample(logits.expand(len(rows), 5), rows, chooser):
        counts[token] += 1
    expected = (logits[0] / 1.3).softmax(0).numpy() * len(rows)
    assert (((counts - expected) ** 2) / expected).sum() < 18.5  # chi-squared, 4 degrees of freedom, p = 0.001


@both
def test_greedy_takes_the_lowest_id_of_equals(chooser: str) -> None:
    logits = torch.zeros(3, VOCAB)
    logits[1, [40, 90]] = 2.0
    logits[2, 299] = 1.0
    assert sample(logits, [make_row(temperature=0.0)] * 3, chooser) == [0, 40, 299]


@both
def test_ties_at_the_border_stand_together(chooser: str) -> None:
    logits = torch.full((1, VOCAB), -5.0)
    logits[0, [10, 20, 30]] = 1.0
    found = {sample(logits, [make_row(seed, top_k=2)], chooser)[0] for seed in range(60)}
    assert found == {10, 20, 30}


@both
def test_unusable_logits_fail_their_row_only(chooser: str) -> None:
    logits = make_logits(4)
    logits[1, 17] = math.nan
    logits[2, 3] = math.inf
    expected = reference.sample(logits[3].numpy(), make_row(3))
    output = make_sampler(VOCAB, chooser).sample(logits, [make_row(n, logprobs=2) for n in range(4)])
    assert set(output.failed) == {1, 2}
    assert [token is None for token in output.tokens] == [False, True, True, False]
    assert output.tokens[3] is not None
    assert output.tokens[3].token_id == expected


@both
def test_nothing_allowed_is_a_failure(chooser: str) -> None:
    mask = torch.zeros(10, dtype=torch.int32)
    for params in ({}, {"temperature": 0.0}, {"top_k": 3}):
        output = make_sampler(VOCAB, chooser).sample(make_logits(1), [make_row(mask=mask, **params)])
        assert output.failed == {0: "no token is allowed at this position"}


@both
@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_p": 0.9}])
def test_bitmask(chooser: str, params: dict[str, Any]) -> None:
    allowed = [0, 31, 32, 63, 255, 299]
    words = np.zeros(10, dtype=np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << token % 32)
    mask = torch.from_numpy(words.view(np.int32))
    logits = make_logits(1, 3)
    rows = [make_row(seed, mask=mask, **params) for seed in range(30)]
    found = [sample(logits, [row], chooser)[0] for row in rows]
    assert found == [reference.sample(logits[0].numpy(), row) for row in rows]
    assert set(found) <= set(allowed)


@both
def test_padding_rows_of_the_vocabulary_are_never_sampled(chooser: str) -> None:
    logits = make_logits(3)
    logits[:, 250:] += 100.0
    rows = [make_row(), make_row(temperature=0.0), make_row(top_k=5, logprobs=1)]
    output = make_sampler(250, chooser).sample(logits, rows)
    assert all(token is not None and token.token_id < 250 for token in output.tokens)


@both
@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 0.2, "top_k": 3, "logit_bias": {5: 50.0}}])
def test_logprobs_are_of_the_raw_distribution(chooser: str, params: dict[str, Any]) -> None:
    logits = make_logits(2, 9)
    output = make_sampler(VOCAB, chooser).sample(
        logits.clone(), [make_row(logprobs=4, **params), make_row(logprobs=0, **params)]
    )
    raw = logits.double().log_softmax(1)
    for number, (token, width) in enumerate(zip(output.tokens, (4, 0), strict=True)):
        assert token is not None
        entry = token.logprobs
        assert entry is not None
        assert entry.logprob == pytest.approx(raw[number, token.token_id].item(), abs=1e-5)
        assert entry.rank == int((raw[number] > raw[number, token.token_id]).sum()) + 1
        values, ids = raw[number].topk(4)
        assert entry.top_ids == tuple(ids.tolist()[:width])
        assert entry.top_logprobs == pytest.approx(values.tolist()[:width], abs=1e-5)


@both
def test_wide_vocabulary_is_decided_by_candidates_mostly(chooser: str) -> None:
    """A peaked row needs no whole sort; a flat one does, and comes out right."""
    peaked, flat = make_logits(1, 1, 20_000) * 3, make_logits(1, 2, 20_000) * 0.01
    for logits, complete in ((peaked, True), (flat, False)):
        row = make_row(1, top_p=0.95)
        found = filters.find_candidates(logits, [row.params], 1024)
        assert found.complete.tolist() == [complete]
        assert sample(logits, [row], chooser) == [reference.sample(logits[0].numpy(), row)]


@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
def test_native_code_chooses_as_torch_does_on_wide_vocabularies(spread: float) -> None:
    logits = make_logits(60, 8, 20_011) / 4 * spread
    logits[30:, 5_000:] = -math.inf
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"top_k": 20, "top_p": 0.8},
        {"top_p": 0.9},
        {"top_p": 0.01},
        {"min_p": 0.1},
        {"top_k": 2000, "top_p": 0.99},
        {"top_k": 7000},
        {"top_k": 9000, "min_p": 0.001, "top_p": 0.7},
        {"temperature": 0.3},
    ]
    rows = [make_row(seed, **ways[seed % len(ways)]) for seed in range(60)]
    assert sample(logits, rows, "native") == sample(logits, rows, "torch")
