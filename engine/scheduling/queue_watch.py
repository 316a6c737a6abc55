"""How the oldest waiting request fares: for how long it waits, and how many younger ones were admitted before it."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection

from engine.request import Sequence

PRUNE_AT = 1024


class QueueWatch:
    """Told of every admission. Remembers the numbers of those admitted while an older one was waiting."""

    def __init__(self) -> None:
        self._admitted: list[int] = []
        """Ascending."""
        self._prune_at = PRUNE_AT

    def admitted(self, sequence: Sequence, waiting: Collection[Sequence]) -> None:
        """`waiting`: those that still wait."""
        if not waiting:
            self._admitted.clear()
            return
        insort(self._admitted, sequence.number)
        if len(self._admitted) >= self._prune_at:
            self._forget_before(oldest_of(waiting))
            self._prune_at = max(PRUNE_AT, 2 * len(self._admitted))

    def bypassed(self, oldest: Sequence) -> int:
        """Admissions of sequences that came after `oldest`."""
        self._forget_before(oldest)
        return len(self._admitted)

    def _forget_before(self, oldest: Sequence) -> None:
        del self._admitted[: bisect_right(self._admitted, oldest.number)]


def oldest_of(waiting: Collection[Sequence]) -> Sequence:
    return min(waiting, key=lambda sequence: sequence.number)
