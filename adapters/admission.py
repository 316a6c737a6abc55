"""Who may come in: the bound on what waits, decided before any work is done for a request."""

from __future__ import annotations

import math

from adapters.backend_options import BackendLimits
from adapters.engine_link import EngineLink
from engine.errors import EngineError, EngineOverloadedError

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later."


class Admission:
    """Counts requests from their arrival, when their prompts are not encoded yet, until the engine has them."""

    def __init__(self, link: EngineLink, limits: BackendLimits) -> None:
        self._link = link
        self._limits = limits
        self._num_arriving = 0
        self.num_refused = 0

    def arrive(self, num_choices: int) -> None:
        """Reserves room. Raises EngineOverloadedError; every success needs its `leave`."""
        info, link = self._link.info, self._link
        num_running = len(link) - link.num_waiting
        free = max(info.max_num_seqs - num_running, 0) if info is not None else 0
        waiting = link.num_waiting + self._num_arriving
        if waiting + num_choices > self._limits.max_waiting_requests + free:
            self._refuse()
        if self._link.num_waiting_tokens > self._limits.max_waiting_tokens:
            self._refuse()
        self._num_arriving += num_choices

    def leave(self, num_choices: int) -> None:
        """The request is with the engine, or will never be."""
        self._num_arriving -= num_choices

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
        info = self._link.info
        batch = info.max_num_seqs if info is not None else 1
        return min(1.0 + math.floor(self._link.num_waiting / batch), 30.0)

    def _refuse(self) -> None:
        self.num_refused += 1
        raise EngineOverloadedError(BUSY, self.retry_after_s)
