"""A priority queue of waiting sequences that nobody has to tidy: what no longer waits falls out when it is met."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Container, Iterator

from engine.request import Phase, Sequence

Entry = tuple[int, float, int, int, Sequence]


class WaitingHeap:
    """Ordered by (priority, key, arrival). Keys are computed when a sequence is pushed and checked when it is next:
    one whose key has grown since goes back and comes later; one whose key has shrunk is found at its old place.
    """

    def __init__(self, key: Callable[[Sequence], float]) -> None:
        self._key = key
        self._entries: list[Entry] = []
        self._aside: list[Sequence] = []

    def push(self, sequence: Sequence) -> None:
        heapq.heappush(self._entries, self._entry(sequence))

    def rebuild(self, waiting: Collection[Sequence]) -> None:
        self._entries = [self._entry(sequence) for sequence in waiting]
        heapq.heapify(self._entries)

    def tidy(self, waiting: Collection[Sequence]) -> None:
        """Bound the memory that sequences cost which were aborted deep in the queue."""
        if len(self._entries) > 2 * len(waiting) + 64:
            self.rebuild(waiting)

    def first(self, passed_over: Container[Sequence]) -> Sequence | None:
        """The first that still waits and was not passed over; those are laid aside until `restore`."""
        entries = self._entries
        while entries:
            _, key, _, epoch, sequence = entries[0]
            if sequence.phase is not Phase.WAITING or sequence.num_preemptions != epoch:
                heapq.heappop(entries)
            elif sequence in passed_over:
                self._aside.append(sequence)
                heapq.heappop(entries)
            elif self._key(sequence) > key:
                heapq.heapreplace(entries, self._entry(sequence))
            else:
                return sequence
        return None

    def restore(self) -> None:
        for sequence in self._aside:
            if sequence.phase is Phase.WAITING:
                self.push(sequence)
        self._aside.clear()

    def in_order(self) -> Iterator[Sequence]:
        """Lazily, the first first. Whatever was handed out and still waits at the end is in the heap again."""
        passed_over: set[Sequence] = set()
        try:
            while (sequence := self.first(passed_over)) is not None:
                passed_over.add(sequence)
                yield sequence
        finally:
            self.restore()

    def _entry(self, sequence: Sequence) -> Entry:
        request = sequence.request
        return (request.priority, self._key(sequence), sequence.number, sequence.num_preemptions, sequence)


def arrival_key(sequence: Sequence) -> float:
    return sequence.request.arrival_s


def youngest_first(running: Collection[Sequence]) -> list[Sequence]:
    """The order in which sequences give way: the least important, then the one that came last."""
    return sorted(running, key=lambda s: (s.request.priority, s.request.arrival_s, s.number), reverse=True)
