"""What a scheduling policy decides. It owns no memory and changes nothing but its own order."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Seq
from typing import Protocol

from engine.request import Sequence


class SchedulingPolicy(Protocol):
    """Three questions a step. Every answer is a permutation (or a subset, for select_step) of what was given.

    In all of them a smaller `request.priority` comes first, whatever the policy says among equals. Three
    notices keep the order of a long queue up to date, so that no step has to sort it.
    """

    name: str
    shares_prefills: bool
    """Whether a request may wait for a running prefill of the same prefix instead of computing it again."""

    def arrived(self, sequence: Sequence) -> None:
        """Told of every sequence that begins to wait: new, or preempted."""
        ...

    def admitted(self, sequence: Sequence) -> None:
        """Told of every admission, so that a share for the oldest can be counted."""
        ...

    def finished(self, sequence: Sequence) -> None:
        """Told of every sequence that ended by itself, so that lengths can be learned."""
        ...

    def admission_order(self, waiting: Collection[Sequence], now_s: float) -> Iterable[Sequence]:
        """In which order waiting sequences are tried for admission; lazily, the first few are often enough.

        `waiting` holds what arrived and was neither admitted nor aborted. The caller may admit a sequence
        before it asks for the next one, and must close the iterator before anything arrives.
        """
        ...

    def select_step(self, running: Seq[Sequence]) -> Seq[Sequence]:
        """Which running sequences take part in this step."""
        ...

    def preemption_order(self, running: Seq[Sequence]) -> Iterable[Sequence]:
        """In which order running sequences give up their blocks when memory runs out."""
        ...
