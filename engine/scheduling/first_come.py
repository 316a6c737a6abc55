"""First come, first served: the control that the other policies are measured against."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Seq

from engine.request import Sequence
from engine.scheduling.waiting_heap import WaitingHeap, arrival_key, youngest_first


class FirstComeFirstServed:
    """Admission by arrival; every running sequence takes part in every step."""

    name = "fcfs"
    shares_prefills = True

    def __init__(self) -> None:
        self._queue = WaitingHeap(arrival_key)

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
