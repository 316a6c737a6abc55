"""Who may come in: the bound on what waits, decided before any work is done for a request."""

from __future__ import annotations

import contextlib
import math
from typing import NoReturn, Protocol

from adapters.backend_options import BackendLimits
from engine.errors import EngineError, EngineOverloadedError
from engine.process.messages import EngineInfo

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later."
LONGEST_RETRY_S = 30.0


class QueueCounts(Protocol):
    """What all fronts of one engine have in work. Each adds its own; the numbers are those of all together."""

    @property
    def sequences(self) -> int:
        """From their arrival, when their prompts are not encoded yet, to their end."""
        ...

    @property
    def waiting_tokens(self) -> int:
        """Of prompts that have not been in a step yet."""
        ...

    def add(self, sequences: int, waiting_tokens: int = 0) -> None: ...

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Nobody else decides meanwhile who may come in."""
        ...


class OwnCounts:
    """Of a front that has the engine to itself."""

    def __init__(self) -> None:
        self.sequences = 0
        self.waiting_tokens = 0

    def add(self, sequences: int, waiting_tokens: int = 0) -> None:
        self.sequences += sequences
        self.waiting_tokens += waiting_tokens

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Admission:
    """Lets sequences in while the engine's seats and the queue have room for them."""

    def __init__(self, counts: QueueCounts, limits: BackendLimits) -> None:
        self._counts = counts
        self._limits = limits
        self._num_seats = 0
        self.num_refused = 0

    def arrive(self, num_choices: int, info: EngineInfo | None) -> None:
        """Counts them in. Raises EngineOverloadedError.

        Those that the engine gets are counted out by EngineLink when they end, the others by `leave`.
        """
        counts = self._counts
        with counts.locked():
            counts.add(num_choices)  # before the look: so the bound holds even where the lock could not be had
            if self._fits(0, info):
                return
            counts.add(-num_choices)
        self._refuse()

    def look(self, num_choices: int, info: EngineInfo | None) -> None:
        """Whether there is room for so many more, without counting them. Raises EngineOverloadedError."""
        if not self._fits(num_choices, info):
            self._refuse()

    def _fits(self, more: int, info: EngineInfo | None) -> bool:
        self._num_seats = info.max_num_seqs if info is not None else 0
        counts, limits = self._counts, self._limits
        return (
            counts.sequences + more <= limits.max_waiting_requests + self._num_seats
            and counts.waiting_tokens <= limits.max_waiting_tokens
        )

    def _refuse(self) -> NoReturn:
        self.num_refused += 1
        raise EngineOverloadedError(BUSY, self.retry_after_s)

    def leave(self, num_choices: int) -> None:
        """They will never be the engine's."""
        self._counts.add(-num_choices)

    def queue_error(self, started: bool) -> EngineError | None:
        """For a request whose time in the queue is over: the error, unless it has begun to run."""
        if started:
            return None
        self.num_refused += 1
        message = f"The request waited in the queue for {self._limits.max_queue_wait_s:g} s. Please try again later."
        return EngineOverloadedError(message, self.retry_after_s)

    @property
    def retry_after_s(self) -> float:
        """A guess: one second, and one more for each full batch that waits."""
        waiting = max(self._counts.sequences - self._num_seats, 0)
        return min(1.0 + math.floor(waiting / max(self._num_seats, 1)), LONGEST_RETRY_S)
