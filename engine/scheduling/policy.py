"""What a scheduling policy decides. It owns no memory and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Protocol

from engine.request import Sequence


class SchedulingPolicy(Protocol):
    """Three questions a step. Every answer is a permutation (or a subset, for select_step) of what was given."""

    name: str

    def admission_order(self, waiting: Seq[Sequence], now_s: float) -> Iterable[Sequence]:
        """In which order waiting sequences are tried for admission; lazily, the first few are often enough."""
        ...

    def admitted(self, sequence: Sequence) -> None:
        """Told of every admission, so that a share for the oldest can be counted."""
        ...

    def select_step(self, running: Seq[Sequence]) -> Seq[Sequence]:
        """Which running sequences take part in this step."""
        ...

    def preemption_order(self, running: Seq[Sequence]) -> Iterable[Sequence]:
        """In which order running sequences give up their blocks when memory runs out."""
        ...
