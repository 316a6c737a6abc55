"""The default policy, watched: nobody waits for more admissions than promised."""

from __future__ import annotations

from collections.abc import Callable, Collection

from engine.request import Phase, Sequence
from engine.scheduling.shortest_first import OLDEST_SHARE, FairShortestFirst
from tests.support.scripted_runner import require


class WatchedShortestFirst(FairShortestFirst):
    """Counts for every waiting sequence how many others were admitted before it.

    The promise: the n-th oldest is admitted within 4n admissions. n grows by whatever comes in ahead of it by
    priority or age (a preempted or resubmitted request is old); while it, or one ahead of it, waits for a shared
    prefill, admissions do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.awaiting: Callable[[], Collection[Sequence]] = tuple
        self._passed: dict[Sequence, int] = {}
        self._rank: dict[Sequence, int] = {}

    def arrived(self, sequence: Sequence) -> None:
        super().arrived(sequence)
        self._rank[sequence] = 1
        self._passed[sequence] = 0
        for other in self._tidy():
            if other is not sequence:
                self._rank[max(other, sequence, key=_age)] += 1

    def admitted(self, sequence: Sequence) -> None:
        super().admitted(sequence)
        awaiting = [s for s in self.awaiting() if s.phase is Phase.WAITING]
        for other in self._tidy():
            behind = sequence.request.priority <= other.request.priority
            if behind and not any(_age(s) <= _age(other) for s in awaiting):
                self._passed[other] += 1
                require(
                    self._passed[other] < OLDEST_SHARE * self._rank[other],
                    f"{other.request_id}, number {self._rank[other]} by age, was passed {self._passed[other]} times",
                )

    def _tidy(self) -> list[Sequence]:
        """Everything that waits."""
        for sequence in [s for s in self._rank if s.phase is not Phase.WAITING]:
            del self._rank[sequence], self._passed[sequence]
        return list(self._rank)


def _age(sequence: Sequence) -> tuple[int, float, int]:
    return (sequence.request.priority, sequence.request.arrival_s, sequence.number)
