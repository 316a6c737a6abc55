"""When the next step is to be planned, on a device that works one step ahead of its results.

A step planned as soon as the one before it has begun leaves out whoever arrives in between: a new request then
waits for the rest of one step and for the whole of another. Planned shortly before the running step ends, it holds
them. The device must not run dry for that, so the running step is taken to last no longer than the shortest of its
kind lately; what the host needs to plan and launch comes off that, and a margin that grows when it was too small.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from engine.runner.batch import StepBatch

RECENT_STEPS = 8
"""Lengths remembered of each kind of step; the shortest counts."""
RECENT_LAUNCHES = 32
HOST_FACTOR = 1.5
MARGIN_S = 0.0005
"""At least, for late timers and busy cores, beside HOST_FACTOR times what the host usually needs."""
MARGIN_GROWTH, MARGIN_DECAY = 1.5, 0.998
"""At a step that was late because it was waited for, and at any other: it settles where 5 of 1 000 are late."""
LONGEST_WAIT_S = 0.1
ROWS_APART, TOKENS_APART = 8, 128
"""Steps of as many decode rows and prompt tokens, rounded up to these, are of one kind."""


class _Step(NamedTuple):
    """One in flight."""

    kind: tuple[int, int]
    prompt_tokens: int
    launched_s: float


class StepPace:
    """Told of launches and results by the runner's wrapper, asked by the loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_flight: deque[_Step] = deque()
        """The oldest first."""
        self._lengths_s: dict[tuple[int, int], deque[tuple[float, int]]] = {}
        """By kind: seconds, and the prompt tokens in them."""
        self._host_s: deque[float] = deque(maxlen=RECENT_LAUNCHES)
        self._host_since_s = clock()
        """When planning began, or the last launch was over."""
        self._last_end_s = 0.0
        self._margin_s = MARGIN_S
        self._waited = False
        """Whether the next step was put off for the oldest in flight."""
        self._overran = False
        """Whether the last launch took longer than it was given, as one of many kernels does while they run."""

    def rest_s(self) -> float:
        """Until the next step should be planned. 0 where nothing runs, or steps of a kind whose length is unknown."""
        if not self._in_flight or not self._host_s:
            return 0.0
        step = self._in_flight[0]
        if step.kind not in self._lengths_s:
            return 0.0
        lengths = self._lengths_s[step.kind]
        length_s = min(s * min(1.0, step.prompt_tokens / tokens) if tokens else s for s, tokens in lengths)
        end_s = max(step.launched_s, self._last_end_s) + length_s
        rest_s = end_s - self._reserve_s() - self._clock()
        self._waited |= rest_s > 0.0
        return min(max(rest_s, 0.0), LONGEST_WAIT_S)

    def planning(self) -> None:
        """From now on it is the host that the step waits for."""
        self._host_since_s = self._clock()

    def launched(self, batch: StepBatch) -> None:
        """The device has been given this step."""
        now = self._clock()
        tokens = batch.num_tokens - batch.num_decode_rows
        self._overran = tokens > 0 and now - self._host_since_s > self._reserve_s()
        self._host_s.append(now - self._host_since_s)
        self._host_since_s = now
        kind = (-(-batch.num_decode_rows // ROWS_APART), -(-tokens // TOKENS_APART))
        self._in_flight.append(_Step(kind, tokens, now))

    def collected(self) -> None:
        """The oldest step in flight has ended, well or not."""
        now = self._clock()
        step = self._in_flight.popleft()
        factor = MARGIN_DECAY
        if now - self._host_since_s >= MARGIN_S / 2:
            lengths = self._lengths_s.setdefault(step.kind, deque(maxlen=RECENT_STEPS))
            lengths.append((now - max(step.launched_s, self._last_end_s), step.prompt_tokens))
        elif not self._overran:
            # It had ended before the launch, nobody knows when: the next one of its kind is not waited for.
            self._lengths_s.pop(step.kind, None)
            factor = MARGIN_GROWTH if self._waited else MARGIN_DECAY
        self._margin_s = min(max(self._margin_s * factor, MARGIN_S), LONGEST_WAIT_S)
        self._last_end_s, self._waited = now, False

    def _reserve_s(self) -> float:
        """For planning and launching a step."""
        usual_s = sorted(self._host_s)[3 * len(self._host_s) // 4] if self._host_s else 0.0
        return HOST_FACTOR * usual_s + self._margin_s
