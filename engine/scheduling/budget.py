"""How many tokens the next step takes: small steps for short waits, large ones for long queues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.runner.batch import StepSizes

DRAIN_STEPS = 5
"""A queue of prompts is worked off in about so many steps."""
QUEUED_PER_PROMPT = 384
"""So many tokens of a prompt count as queued: a few long ones are no queue, and steps the longer for them would only
keep the decode rows beside them waiting."""


@dataclass(frozen=True, slots=True)
class StepBudget:
    """Tokens of a step: every decode row's, and prompts as far as they make good use of the device.

    A prompt or two beside decode rows go along in what the reading of the weights leaves free, which delays the rows
    least. More are read in steps that keep the device busy, decode rows included, and a queue of many prompts in
    longer ones: the last of a burst get their first token earlier when the first ones' decode rows wait.
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
        free, busy = self.sizes.free, self.sizes.busy
        left_to_read = queued = 0
        for left in prompts:
            left_to_read += left
            queued += min(left, QUEUED_PER_PROMPT)
            if queued > DRAIN_STEPS * self.max_tokens:
                break
        if decode_rows and 2 * left_to_read <= busy:
            share = max(free - decode_rows, free // 3)
        else:
            share = max(busy - decode_rows, busy // 2, queued // DRAIN_STEPS)
        return min(self.max_tokens, share + decode_rows)
