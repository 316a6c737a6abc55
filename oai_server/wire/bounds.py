"""Ranges of numbers in requests, in vLLM's words. Read by validation and by /openapi.json alike."""

from __future__ import annotations

import math

import msgspec

from oai_server.errors import ApiError, invalid

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
TOKEN_ID_MAX = 2**31 - 1


class Bound(msgspec.Struct, frozen=True):
    """`low <= value <= high`; with `open_low`: `low < value`."""

    low: float
    high: float
    words: str
    """vLLM's: "must be ..." before ", got X."."""
    open_low: bool = False
    tagged: bool = False
    """Whether vLLM appends (parameter=..., value=...)."""

    def holds(self, value: float) -> bool:
        return (self.low < value if self.open_low else self.low <= value) and value <= self.high


BOUNDS: dict[str, Bound] = {
    "temperature": Bound(0, 2, "must be in [0, 2]", tagged=True),
    "top_p": Bound(0, 1, "must be in (0, 1]", open_low=True, tagged=True),
    "top_k": Bound(-1, INT64_MAX, "must be 0 (disable), or at least 1"),
    "min_p": Bound(0, 1, "must be in [0, 1]"),
    "presence_penalty": Bound(-2, 2, "must be in [-2, 2]"),
    "frequency_penalty": Bound(-2, 2, "must be in [-2, 2]"),
    "repetition_penalty": Bound(0.01, 100, "must be at least 0.01 and at most 100"),  # below, logits overflow
    "seed": Bound(INT64_MIN, INT64_MAX, "must be a 64-bit integer", tagged=True),
    "priority": Bound(-(2**31), 2**31 - 1, "must be a 32-bit integer", tagged=True),
    "truncate_prompt_tokens": Bound(-1, INT64_MAX, "must be -1 or at least 0", tagged=True),
}


def out_of_range(name: str, words: str, value: float | int, *, tagged: bool = False) -> ApiError:
    suffix = f" (parameter={name}, value={shown(value)})" if tagged else ""
    return invalid(f"{name} {words}, got {shown(value)}.{suffix}", name)


def check_bounds(request: object) -> None:
    """Raises 400 for the first number of a wire Struct that is out of its range."""
    for name, bound in BOUNDS.items():
        value = getattr(request, name, None)
        if value is None or bound.holds(value):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise out_of_range(name, "must be a finite number", value, tagged=True)
        words = "must be non-negative" if name == "temperature" and value < 0 else bound.words
        if name == "repetition_penalty" and value <= 0:
            words = "must be greater than zero"
        raise out_of_range(name, words, value, tagged=bound.tagged)


def shown(value: float | int) -> str:
    """A client's number as text: short, also when it has thousands of digits (whose conversion is slow)."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "an integer of more than 77 digits"
    return str(value)
