"""Shortest predicted work first, with a share for the oldest: low mean latency without starvation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from collections.abc import Sequence as Seq

from engine.request import Phase, Sequence
from engine.scheduling.waiting_heap import WaitingHeap, arrival_key, youngest_first

PREFILL_TOKENS_PER_STEP = 40
"""Prompt tokens that cost about as much as one more decode step, by the arithmetic of a 7B model on one GPU."""
OLDEST_SHARE = 4
"""Every 4th admission goes to the oldest waiting request, so the n-th oldest is admitted within 4n admissions."""
MEAN_WINDOW = 256
"""The running mean of output lengths looks back over about so many requests."""
MAX_IDLE_CLASSES = 64
"""Counts are kept for so many priorities that nobody waits in; clients choose the numbers."""
STALE_MEAN = 1.25
"""The queue is sorted anew when the mean has moved by this factor."""


class FairShortestFirst:
    """Work in decode steps: uncached prompt tokens / 40 + min(max_tokens, mean output of finished requests).

    What a request says of its length counts: min_tokens, and max_tokens where no token ends it before.
    A request that waits for another's prefill of its own prefix is passed over without losing its turn.
    """

    name = "sjf"
    shares_prefills = True

    def __init__(self) -> None:
        self._by_work = WaitingHeap(self.predicted_work)
        self._by_age = WaitingHeap(arrival_key)
        self._mean_output = float("inf")
        self._mean_at_sort = float("inf")
        self._num_finished = 0
        self._since_oldest: dict[int, int] = {}
        """By priority: admissions since the oldest was last served; no entry for 0."""
        self._turn: Sequence | None = None
        """The oldest, when it was offered because its turn had come."""

    def predicted_work(self, sequence: Sequence) -> float:
        """What is left to do, in units of one decode step."""
        sampling = sequence.request.sampling
        expected = float(sampling.max_tokens)
        if sampling.eos_token_ids or sampling.stop_token_ids:
            expected = max(min(expected, self._mean_output), sampling.min_tokens)
        uncached = len(sequence.token_ids) - sequence.num_cached
        produced = len(sequence.token_ids) - sequence.num_prompt
        return uncached / PREFILL_TOKENS_PER_STEP + max(expected - produced, 1.0)

    def arrived(self, sequence: Sequence) -> None:
        self._by_work.push(sequence)
        self._by_age.push(sequence)

    def admitted(self, sequence: Sequence) -> None:
        priority = sequence.request.priority
        count = self._since_oldest.get(priority, 0) + 1
        if count < OLDEST_SHARE:
            self._since_oldest[priority] = count
        elif sequence is self._turn:
            del self._since_oldest[priority]

    def finished(self, sequence: Sequence) -> None:
        length = sequence.num_output
        self._num_finished = min(self._num_finished + 1, MEAN_WINDOW)
        mean = length if self._num_finished == 1 else self._mean_output
        self._mean_output = mean + (length - mean) / self._num_finished

    def admission_order(self, waiting: Collection[Sequence], now_s: float) -> Iterable[Sequence]:
        self._by_age.tidy(waiting)
        self._by_work.tidy(waiting)
        if len(self._since_oldest) > len(waiting) + MAX_IDLE_CLASSES:
            present = {sequence.request.priority for sequence in waiting}
            self._since_oldest = {p: count for p, count in self._since_oldest.items() if p in present}
        if not self._mean_at_sort / STALE_MEAN <= self._mean_output <= self._mean_at_sort * STALE_MEAN:
            self._mean_at_sort = self._mean_output
            self._by_work.rebuild(waiting)
        return self._order()

    def select_step(self, running: Seq[Sequence]) -> Seq[Sequence]:
        return running

    def preemption_order(self, running: Seq[Sequence]) -> Iterable[Sequence]:
        return youngest_first(running)

    def _order(self) -> Iterator[Sequence]:
        passed_over: set[Sequence] = set()
        turns_passed: set[int] = set()
        try:
            while (sequence := self._by_work.first(passed_over)) is not None:
                priority = sequence.request.priority
                is_turn = self._since_oldest.get(priority) == OLDEST_SHARE - 1 and priority not in turns_passed
                if is_turn:
                    sequence = self._turn = self._by_age.first(passed_over) or sequence
                passed_over.add(sequence)
                yield sequence
                if is_turn and sequence.phase is Phase.WAITING:
                    turns_passed.add(priority)
        finally:
            self._by_work.restore()
            self._by_age.restore()
