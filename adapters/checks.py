"""The choke point of sampling parameters: every number and list is checked before anything is allocated for them.

Messages are vLLM's where it has one, since harnesses match on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from adapters.backend import GenerationParams
from adapters.backend_options import BackendLimits
from engine.errors import ContextLengthError, RequestError
from engine.models.config import GenerationDefaults
from engine.sampling_params import GREEDY_EPSILON, SamplingParams

BadWords = tuple[tuple[int, ...], ...]
"""Spellings of words in tokens."""
Number = TypeVar("Number", int, float)
MAX_SEED = 2**63 - 1
MIN_TEMPERATURE = 0.01
"""Temperatures between greedy and this are raised to it: the logits would overflow."""
REPETITION_PENALTIES = (0.01, 100.0)
"""Outside of these, logits overflow or vanish."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What checks need to know of the served model."""

    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    defaults: GenerationDefaults
    capacity_tokens: int = 2**31 - 1
    """What the engine's KV cache holds."""


def check_params(params: GenerationParams, facts: ModelFacts, limits: BackendLimits) -> None:
    """Ranges of everything that does not depend on the prompt. Raises RequestError with the field's name."""
    if params.n < 1:
        raise RequestError(f"n must be at least 1, got {_short(params.n)}.", "n")
    if params.n > limits.max_n:
        raise RequestError(f"n must be at most {limits.max_n}, got {_short(params.n)}.", "n")
    _check_numbers(params)
    _check_token_count(params, facts)
    for name in ("logprobs", "prompt_logprobs"):
        _check_logprobs(name, getattr(params, name), limits.max_logprobs)
    _check_lists(params, limits)
    _check_ids("stop_token_ids", params.stop_token_ids, facts, limits.max_stop_token_ids)
    _check_ids("logit_bias", params.logit_bias, facts, limits.max_logit_bias)
    if any(math.isnan(bias) for bias in params.logit_bias.values()):
        raise RequestError("logit_bias must hold numbers.", "logit_bias")
    if params.allowed_token_ids is not None:
        if not params.allowed_token_ids:
            raise RequestError("allowed_token_ids is not None and empty!", "allowed_token_ids")
        _check_ids("allowed_token_ids", params.allowed_token_ids, facts, limits.max_allowed_token_ids)


def check_prompt_ids(token_ids: Sequence[int], facts: ModelFacts, param: str) -> None:
    """Raises RequestError for an empty prompt or an id outside the vocabulary, ContextLengthError for a long one."""
    if not token_ids:
        raise RequestError("The decoder prompt cannot be empty", param)
    if len(token_ids) > facts.max_model_len:
        raise too_long(facts.max_model_len, len(token_ids), param)
    worst = max(token_ids) if min(token_ids) >= 0 else min(token_ids)
    if not 0 <= worst < facts.vocab_size:
        raise RequestError(f"Token id {worst} is out of vocabulary", param)


def too_long(max_model_len: int, at_least: int, param: str) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains at least "
        f"{at_least} input tokens, which exceeds this limit even without any output tokens. "
        "Please reduce the length of the input prompt.",
        param,
    )


def sampling_params(
    params: GenerationParams, facts: ModelFacts, num_prompt: int, seed: int, bad_words: BadWords, param: str
) -> SamplingParams:
    """Checked parameters with the model's defaults filled in. `seed` is the request's or a drawn one.

    Raises ContextLengthError when the prompt leaves no room for a token, in the context or in the engine's memory,
    and RequestError when no token is allowed.
    """
    defaults = facts.defaults
    max_tokens = _max_tokens(params, facts, num_prompt, param)
    bias = {token_id: min(max(value, -100.0), 100.0) for token_id, value in params.logit_bias.items()}
    filled = SamplingParams(
        max_tokens=max_tokens,
        temperature=_temperature(params.temperature, defaults.temperature),
        top_k=max(_first(params.top_k, defaults.top_k, 0), 0),
        top_p=_first(params.top_p, defaults.top_p, 1.0),
        min_p=_first(params.min_p, defaults.min_p, 0.0),
        repetition_penalty=_first(params.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty=_first(params.presence_penalty, 0.0),
        frequency_penalty=_first(params.frequency_penalty, 0.0),
        logit_bias=bias,
        allowed_token_ids=tuple(dict.fromkeys(params.allowed_token_ids or ())),
        bad_words=bad_words,
        min_tokens=min(params.min_tokens, max_tokens),
        eos_token_ids=() if params.ignore_eos else facts.eos_token_ids,
        stop_token_ids=tuple(dict.fromkeys(params.stop_token_ids)),
        seed=seed,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
    )
    _check_something_is_allowed(filled)
    return filled


def _max_tokens(params: GenerationParams, facts: ModelFacts, num_prompt: int, param: str) -> int:
    """What was asked for, within the model's default and what is left of the context."""
    room = facts.max_model_len - num_prompt
    asked = room if params.max_tokens is None else params.max_tokens
    if facts.defaults.max_new_tokens is not None:
        asked = min(asked, facts.defaults.max_new_tokens)
    needed = 1 if params.max_tokens is None else min(1, asked)
    if room < needed:
        raise too_long(facts.max_model_len, num_prompt + 1, param)
    max_tokens = min(asked, room)
    if num_prompt + min(1, max_tokens) > facts.capacity_tokens:
        raise ContextLengthError(
            f"The prompt has {num_prompt} tokens, but the engine's KV cache holds only {facts.capacity_tokens}. "
            "Please reduce the length of the input prompt.",
            param,
        )
    return max_tokens


def _check_something_is_allowed(params: SamplingParams) -> None:
    """Of the allowed tokens, one must be left at the first position. Raises RequestError."""
    never = {word[0] for word in params.bad_words if len(word) == 1}
    if params.min_tokens:
        never.update(params.eos_token_ids, params.stop_token_ids)
    if params.allowed_token_ids and never.issuperset(params.allowed_token_ids):
        message = "Other parameters (bad_words, min_tokens) forbid all of allowed_token_ids."
        raise RequestError(message, "allowed_token_ids")


def seed_of_choice(seed: int, index: int) -> int:
    """Choice i of a request uses seed + i, in 64 signed bits."""
    return (seed + index + 2**63) % 2**64 - 2**63


def _first(*values: Number | None) -> Number:
    return next(value for value in values if value is not None)


def _temperature(asked: float | None, default: float | None) -> float:
    temperature = asked if asked is not None else default if default is not None else 1.0
    return max(temperature, MIN_TEMPERATURE) if temperature >= GREEDY_EPSILON else 0.0


def _check_numbers(params: GenerationParams) -> None:
    temperature = params.temperature
    if temperature is not None:
        if temperature < 0:
            raise RequestError(f"temperature must be non-negative, got {temperature}.", "temperature")
        _check_range("temperature", temperature, 0.0, 2.0)
    if params.top_p is not None and not 0.0 < params.top_p <= 1.0:
        raise RequestError(f"top_p must be in (0, 1], got {params.top_p}.", "top_p")
    if params.top_k is not None and params.top_k < -1:
        raise RequestError(f"top_k must be 0 (disable), or at least 1, got {_short(params.top_k)}.", "top_k")
    _check_range("min_p", params.min_p, 0.0, 1.0)
    _check_range("presence_penalty", params.presence_penalty, -2.0, 2.0)
    _check_range("frequency_penalty", params.frequency_penalty, -2.0, 2.0)
    penalty = params.repetition_penalty
    if penalty is not None and not penalty > 0:
        raise RequestError(f"repetition_penalty must be greater than zero, got {penalty}.", "repetition_penalty")
    _check_range("repetition_penalty", penalty, *REPETITION_PENALTIES)
    if params.seed is not None and not -(2**63) <= params.seed <= MAX_SEED:
        raise RequestError("seed must be a signed 64-bit integer.", "seed")


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise RequestError(f"{name} must be in [{low:g}, {high:g}], got {value}.", name)


def _check_token_count(params: GenerationParams, facts: ModelFacts) -> None:
    max_tokens, limit = params.max_tokens, facts.max_model_len
    if max_tokens is not None and max_tokens < 0:
        raise RequestError(f"max_tokens must be at least 1, got {_short(max_tokens)}.", "max_tokens")
    if max_tokens is not None and max_tokens > limit:
        raise RequestError(
            f"max_tokens={_short(max_tokens)} cannot be greater than max_model_len={limit}. "
            "Please request fewer output tokens.",
            "max_tokens",
            "context_length_exceeded",
        )
    if params.min_tokens < 0:
        raise RequestError(
            f"min_tokens must be greater than or equal to 0, got {_short(params.min_tokens)}.", "min_tokens"
        )
    most = limit if max_tokens is None else max_tokens
    if params.min_tokens > most:
        raise RequestError(
            f"min_tokens must be less than or equal to max_tokens={most}, got {_short(params.min_tokens)}.",
            "min_tokens",
        )
    truncate = params.truncate_prompt_tokens
    if truncate is not None and (truncate < -1 or truncate > limit):
        raise RequestError(
            f"truncate_prompt_tokens={_short(truncate)} cannot be greater than max_model_len = {limit}. "
            "Please request a smaller truncation size."
            if truncate > 0
            else f"truncate_prompt_tokens must be at least -1, got {_short(truncate)}.",
            "truncate_prompt_tokens",
        )


def _check_logprobs(name: str, value: int | None, limit: int) -> None:
    if value is None:
        return
    if value < 0:
        raise RequestError(f"`{name}` must be a positive value.", name)
    if value > limit:
        kind = "sample" if name == "logprobs" else "prompt"
        raise RequestError(
            f"Requested {kind} logprobs of {_short(value)}, which is greater than max allowed: {limit}", name
        )


def _check_lists(params: GenerationParams, limits: BackendLimits) -> None:
    for name, values, most in (
        ("stop", params.stop, limits.max_stop),
        ("bad_words", params.bad_words, limits.max_bad_words),
    ):
        if len(values) > most:
            raise RequestError(f"{name} may have at most {most} entries, got {len(values)}.", name)
        if "" in values:
            raise RequestError(f"{name} cannot contain an empty string.", name)
        if any(len(value) > limits.max_stop_chars for value in values):
            raise RequestError(f"An entry of {name} is longer than {limits.max_stop_chars} characters.", name)


def _check_ids(name: str, token_ids: Iterable[int], facts: ModelFacts, most: int) -> None:
    token_ids = set(token_ids)
    if len(token_ids) > most:
        raise RequestError(f"{name} may have at most {most} entries, got {len(token_ids)}.", name)
    wrong = sorted(token_id for token_id in token_ids if not 0 <= token_id < facts.vocab_size)
    if wrong:
        shown = ", ".join(_short(token_id) for token_id in wrong[:8])
        raise RequestError(
            f"token_id(s) [{shown}] in {name} contain out-of-vocab token ids. Vocabulary size: {facts.vocab_size}",
            name,
        )


def _short(number: int) -> str:
    """A client's integer may have thousands of digits."""
    return str(number) if abs(number) < 10**20 else "a number beyond 64 bits"
