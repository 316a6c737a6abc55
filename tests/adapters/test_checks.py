"""Ranges of sampling parameters: what is refused, by which name, and what becomes of the rest."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backend import GenerationParams
from adapters.backend_options import BackendLimits
from adapters.checks import BadWords, ModelFacts, check_params, check_prompt_ids, sampling_params, seed_of_choice
from engine.errors import ContextLengthError, RequestError
from engine.models.config import GenerationDefaults
from engine.sampling_params import SamplingParams

FACTS = ModelFacts(vocab_size=100, max_model_len=512, eos_token_ids=(98, 99), defaults=GenerationDefaults())
LIMITS = BackendLimits()


def fill(num_prompt: int = 10, facts: ModelFacts = FACTS, bad_words: BadWords = (), **params: Any) -> SamplingParams:
    checked = GenerationParams(**params)
    check_params(checked, facts, LIMITS)
    return sampling_params(checked, facts, num_prompt, 7, bad_words, "prompt")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n", 0, "n must be at least 1, got 0."),
        ("n", -1, "n must be at least 1"),
        ("n", 10**9, "at most 128"),
        ("temperature", -1.0, "temperature must be non-negative, got -1.0."),
        ("temperature", 2.5, r"temperature must be in \[0, 2\], got 2.5."),
        ("temperature", math.nan, "temperature"),
        ("temperature", math.inf, "temperature"),
        ("top_p", 0.0, r"top_p must be in \(0, 1\], got 0.0."),
        ("top_p", 1.1, "top_p"),
        ("top_p", math.nan, "top_p"),
        ("top_k", -2, r"top_k must be 0 \(disable\), or at least 1, got -2."),
        ("min_p", 2.0, r"min_p must be in \[0, 1\], got 2.0."),
        ("min_p", -0.1, "min_p"),
        ("presence_penalty", 3.0, r"presence_penalty must be in \[-2, 2\], got 3.0."),
        ("frequency_penalty", -2.1, "frequency_penalty"),
        ("repetition_penalty", 0.0, "repetition_penalty must be greater than zero, got 0.0."),
        ("repetition_penalty", 1e38, r"must be in \[0.01, 100\]"),
        ("repetition_penalty", math.nan, "greater than zero"),
        ("seed", 2**63, "64-bit"),
        ("seed", -(2**63) - 1, "64-bit"),
        ("max_tokens", -1, "max_tokens must be at least 1, got -1."),
        ("max_tokens", 600, "max_tokens=600 cannot be greater than max_model_len=512. Please request fewer"),
        ("max_tokens", 10**4000, "cannot be greater than max_model_len=512"),
        ("min_tokens", -1, "min_tokens"),
        ("min_tokens", 513, "min_tokens must be less than or equal to max_tokens=512, got 513."),
        ("logprobs", 21, "Requested sample logprobs of 21, which is greater than max allowed: 20"),
        ("logprobs", -1, "positive"),
        ("prompt_logprobs", 21, "Requested prompt logprobs"),
        ("stop", ("a",) * 5, "at most 4"),
        ("stop", ("",), "stop cannot contain an empty string."),
        ("stop", ("x" * 5000,), "longer than"),
        ("bad_words", ("",), "bad_words cannot contain an empty string."),
        ("bad_words", ("a",) * 129, "at most 128"),
        ("stop_token_ids", (100,), r"\[100\] in stop_token_ids contain out-of-vocab token ids. Vocabulary size: 100"),
        ("stop_token_ids", (-1,), "out-of-vocab"),
        ("stop_token_ids", (2**64,), "out-of-vocab"),
        ("logit_bias", {99_999: 1.0}, r"token_id\(s\) \[99999\] in logit_bias contain out-of-vocab token ids."),
        ("logit_bias", {1: math.nan}, "numbers"),
        ("allowed_token_ids", (), "allowed_token_ids is not None and empty!"),
        ("allowed_token_ids", (100,), "out-of-vocab"),
        ("allowed_token_ids", tuple(range(200_000)), "at most 4096"),
        ("truncate_prompt_tokens", 1000, "truncate_prompt_tokens=1000 cannot be greater than max_model_len = 512."),
        ("truncate_prompt_tokens", -2, "at least -1"),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        check_params(GenerationParams(**{name: value}), FACTS, LIMITS)
    assert caught.value.param == name
    assert len(str(caught.value)) < 300


def test_min_tokens_is_held_against_max_tokens() -> None:
    with pytest.raises(RequestError, match=r"less than or equal to max_tokens=2, got 5\."):
        check_params(GenerationParams(max_tokens=2, min_tokens=5), FACTS, LIMITS)


def test_neutral_values_where_neither_request_nor_model_says_anything() -> None:
    assert fill() == SamplingParams(max_tokens=502, eos_token_ids=(98, 99), seed=7)


def test_the_model_s_defaults_fill_gaps_and_the_request_wins() -> None:
    defaults = GenerationDefaults(
        temperature=0.6, top_p=0.95, top_k=20, repetition_penalty=1.05, min_p=0.1, max_new_tokens=100
    )
    facts = ModelFacts(100, 512, (99,), defaults)
    filled = fill(facts=facts)
    assert (filled.temperature, filled.top_p, filled.top_k, filled.min_p) == (0.6, 0.95, 20, 0.1)
    assert (filled.repetition_penalty, filled.max_tokens) == (1.05, 100)
    own = fill(facts=facts, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, min_p=0.0, max_tokens=300)
    assert own.greedy
    assert (own.top_p, own.top_k, own.repetition_penalty, own.max_tokens) == (1.0, 0, 1.0, 100)


@pytest.mark.parametrize(("asked", "got"), [(0.0, 0.0), (1e-300, 0.0), (9e-6, 0.0), (0.001, 0.01), (2.0, 2.0)])
def test_tiny_temperatures_are_greedy_or_raised(asked: float, got: float) -> None:
    assert fill(temperature=asked).temperature == got


def test_max_tokens_is_clipped_to_what_is_left_of_the_context() -> None:
    assert fill(500, max_tokens=100).max_tokens == 12
    assert fill(511).max_tokens == 1
    assert fill(512, max_tokens=0).max_tokens == 0
    for params in ({}, {"max_tokens": 5}):
        with pytest.raises(ContextLengthError, match="maximum context length is 512 tokens") as caught:
            fill(512, **params)
        assert caught.value.code == "context_length_exceeded"


def test_lists_are_bounded_and_deduplicated() -> None:
    filled = fill(
        logit_bias={1: 1000.0, 2: -math.inf}, stop_token_ids=(5, 5), allowed_token_ids=(1, 1, 2), ignore_eos=True
    )
    assert filled.logit_bias == {1: 100.0, 2: -100.0}
    assert (filled.stop_token_ids, filled.allowed_token_ids, filled.eos_token_ids) == ((5,), (1, 2), ())


def test_top_k_minus_one_is_off() -> None:
    assert fill(top_k=-1).top_k == 0


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ((), "The decoder prompt cannot be empty"),
        ((1, 100), "Token id 100 is out of vocabulary"),
        ((1, -5), "Token id -5 is out of vocabulary"),
        ((2**70,), "out of vocabulary"),
        ((1,) * 513, "your prompt contains at least 513 input tokens"),
    ],
)
def test_prompt_ids(token_ids: tuple[int, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        check_prompt_ids(token_ids, FACTS, "prompt")
    assert caught.value.param == "prompt"


def test_a_prompt_that_the_cache_cannot_hold_is_refused_as_too_long() -> None:
    facts = dataclasses.replace(FACTS, capacity_tokens=64)
    assert fill(63, facts).max_tokens == 449
    assert fill(64, facts, max_tokens=0).max_tokens == 0
    with pytest.raises(ContextLengthError, match="KV cache holds only 64") as caught:
        fill(64, facts)
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


@pytest.mark.parametrize(
    ("params", "bad_words", "refused"),
    [
        ({"allowed_token_ids": (1, 2)}, ((1,), (2,)), True),
        ({"allowed_token_ids": (1, 2)}, ((1,), (2, 2)), False),
        ({"allowed_token_ids": (98, 99), "min_tokens": 1}, (), True),
        ({"allowed_token_ids": (98, 99)}, (), False),
        ({"allowed_token_ids": (98, 5), "min_tokens": 1, "stop_token_ids": (5,)}, (), True),
        ({"min_tokens": 1}, ((1,),), False),
    ],
)
def test_allowed_ids_that_are_all_forbidden_are_refused(
    params: dict[str, Any], bad_words: BadWords, refused: bool
) -> None:
    if not refused:
        assert fill(bad_words=bad_words, **params).bad_words == bad_words
        return
    with pytest.raises(RequestError, match="forbid all of allowed_token_ids") as caught:
        fill(bad_words=bad_words, **params)
    assert caught.value.param == "allowed_token_ids"


@given(seed=st.integers(-(2**63), 2**63 - 1), index=st.integers(0, 127))
def test_seeds_of_choices_stay_64_bit_and_differ(seed: int, index: int) -> None:
    drawn = [seed_of_choice(seed, i) for i in range(index + 1)]
    assert drawn[0] == seed
    assert len(set(drawn)) == len(drawn)
    assert all(-(2**63) <= value < 2**63 for value in drawn)
