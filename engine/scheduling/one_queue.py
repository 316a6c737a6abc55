"""What policies with one waiting queue have in common; see `SchedulingPolicy`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Sequence as Seq

from engine.request import Sequence
from engine.scheduling.waiting_heap import WaitingHeap, youngest_first


class OneQueue:
    """Admission in the order of one key; learns nothing. Every running sequence takes part in every step."""

    def __init__(self, key: Callable[[Sequence], float]) -> None:
        self._queue = WaitingHeap(key)

    def arrived(self, sequence: Sequence) -> None:
        self._queue.push(sequence)

    def admitted(self, sequence: Sequence) -> None:
        pass

    def finished(self, sequence: Sequence) -> None:
        pass

    def admission_order(self, waiting: Collection[Sequence], now_s: float) -> Iterable[Sequence]:
        self._queue.tidy(waiting)
        return self._queue.in_order()

    def select_step(self, running: Seq[Sequence]) -> Seq[Sequence]:
        return running

    def preemption_order(self, running: Seq[Sequence]) -> Iterable[Sequence]:
        return youngest_first(running)
