"""How many tokens the next step takes: small steps for short waits, large ones for long queues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.runner.batch import StepSizes

DRAIN_STEPS = 5
"""A queue is worked off in about so many steps."""


@dataclass(frozen=True, slots=True)
class StepBudget:
    """Tokens of a step: every decode row's, and prompts as far as they make good use of the device.

    A prompt or two beside decode rows go along in what the reading of the weights leaves free, which delays the rows
    least. More are read in steps that keep the device busy, and a queue of many in longer ones, whose efficiency is
    a little better; of few long prompts it is not, as that would only keep decode rows waiting.
    """

    max_tokens: int
    sizes: StepSizes | None = None
    """Without: always `max_tokens`."""

    @property
    def is_fixed(self) -> bool:
        """Whether every step is of `max_tokens`."""
        return self.sizes is None or self.sizes.busy >= self.max_tokens

    def choose(self, decode_rows: int, prompts: Iterable[int]) -> int:
        """`prompts`: tokens that each of the prompts has left, those being read first; not all may be looked at."""
        if self.sizes is None or self.is_fixed:
            return self.max_tokens
        queued = 0
        for left in prompts:
            queued += min(left, self.sizes.busy)
            if queued > DRAIN_STEPS * self.max_tokens:
                break
        if decode_rows and 2 * queued <= self.sizes.busy:
            share = max(self.sizes.free - decode_rows, self.sizes.free // 3)
        else:
            share = max(self.sizes.busy, queued // DRAIN_STEPS)
        return min(self.max_tokens, share + decode_rows)
