"""First come, first served: the control that the other policies are measured against."""

from __future__ import annotations

from engine.scheduling.one_queue import OneQueue
from engine.scheduling.waiting_heap import arrival_key


class FirstComeFirstServed(OneQueue):
    """Admission by arrival; every running sequence takes part in every step."""

    name = "fcfs"
    shares_prefills = True

    def __init__(self) -> None:
        super().__init__(arrival_key)
