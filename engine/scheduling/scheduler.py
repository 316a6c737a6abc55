"""Continuous batching: which tokens of which sequences the next step computes, and what its results change.

Decode rows and prefill chunks share one ragged step and one token budget. The scheduler knows requests and blocks,
no tensors. Steps may be launched before the results of the one before are read: a row whose last token is still on
the device is scheduled again, unless that token must end it by length.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq

from engine.errors import ConfigurationError
from engine.memory.sequence_memory import SequenceMemory
from engine.request import Phase, Sequence
from engine.runner.batch import ScheduledRow, StepBatch, StepSizes
from engine.scheduling.budget import StepBudget
from engine.scheduling.policy import SchedulingPolicy
from engine.scheduling.queue_watch import QueueWatch

GROWTH_RESERVE_TOKENS = 32
"""An admission leaves room for so many more tokens of each running sequence, else it would soon be preempted."""


class Scheduler:
    """Owns every live sequence: waiting, or running in a slot with a block table.

    One step is `schedule`, then `launched`; `engine.scheduling.results` applies what came back.
    """

    def __init__(
        self,
        memory: SequenceMemory,
        policy: SchedulingPolicy,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        clock: Callable[[], float] = time.monotonic,
        step_sizes: StepSizes | None = None,
    ) -> None:
        if max_num_seqs < 1 or max_num_batched_tokens < 1:
            raise ConfigurationError("max_num_seqs and max_num_batched_tokens must be at least 1")
        self.memory = memory
        self.policy = policy
        self.max_num_batched_tokens = max_num_batched_tokens
        self._step_budget = StepBudget(max_num_batched_tokens, step_sizes)
        self.live: dict[str, Sequence] = {}
        """By request id: everything waiting or running."""
        self.waiting: dict[Sequence, None] = {}
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.queue_watch = QueueWatch()
        self.held_back = False
        """A row got no block while results were outstanding: collect them before anyone is preempted."""
        # Every running row may want one token, so more slots than budget would leave some row without its turn.
        self._free_slots = list(range(min(max_num_seqs, max_num_batched_tokens)))
        self._released_slots: list[int] = []
        self._awaited: dict[Sequence, bytes] = {}
        self._blocked: tuple[int, int] | None = None
        self._num_arrivals = 0
        self.clock = clock

    def add(self, sequence: Sequence) -> None:
        """A new or resumed sequence begins to wait."""
        self.live[sequence.request_id] = sequence
        sequence.num_cached = len(self.memory.find_prefix(sequence)) * self.memory.block_size
        self._wait(sequence)

    def remove(self, sequence: Sequence) -> None:
        """The sequence is over, for whatever reason; its blocks and its slot are free at once."""
        if sequence.phase is Phase.RUNNING:
            self.running.remove(sequence)
            self._vacate(sequence)
        elif sequence.phase is Phase.WAITING:
            del self.waiting[sequence]
            self._awaited.pop(sequence, None)
        sequence.phase = Phase.FINISHED
        del self.live[sequence.request_id]

    def take_released_slots(self) -> list[int]:
        """Slots given up since the last call, for the runner to forget."""
        released, self._released_slots = self._released_slots, []
        return released

    def schedule(self, results_outstanding: bool = False) -> StepBatch:
        """The next step, possibly empty. Without outstanding results, short memory preempts the youngest."""
        self.held_back = False
        budget = self._choose_budget()
        if self.waiting and self._free_slots:
            self._admit(budget)
        selected = self.policy.select_step(self.running)
        rows, growing, prefills = self._decode_rows(selected)
        if growing:
            self._grow(rows, growing, results_outstanding)
            prefills = [s for s in prefills if s.phase is Phase.RUNNING]
        num_decode = len(rows)
        self._add_chunks(rows, prefills, budget - num_decode)
        return StepBatch(tuple(rows), num_decode)

    def launched(self, batch: StepBatch) -> None:
        """The runner has taken the step: its positions count as computed, its samples as in flight."""
        for row in batch.rows:
            sequence = row.sequence
            sequence.num_computed = row.start + row.count
            if row.samples:
                sequence.num_in_flight += 1

    def _choose_budget(self) -> int:
        """Tokens of the step that is being planned."""
        if self._step_budget.is_fixed:
            return self._step_budget.max_tokens
        prefills = [left for s in self.running if (left := s.num_uncomputed) > 1]
        waiting = (s.num_uncomputed for s in self.waiting) if self._free_slots else ()
        return self._step_budget.choose(len(self.running) - len(prefills), itertools.chain(prefills, waiting))

    def _decode_rows(self, selected: Seq[Sequence]) -> tuple[list[ScheduledRow], list[Sequence], list[Sequence]]:
        """Rows with one token to compute; those that need a block first; those that are still in prefill."""
        rows: list[ScheduledRow] = []
        growing: list[Sequence] = []
        prefills: list[Sequence] = []
        block_size = self.memory.block_size
        for sequence in selected:
            position = sequence.num_computed
            num_tokens = len(sequence.token_ids) + sequence.num_in_flight
            if num_tokens - position > 1:
                prefills.append(sequence)
            elif sequence.num_in_flight and num_tokens >= sequence.max_length:
                continue  # the token in flight is its last
            else:
                if position % block_size == 0 and position == len(sequence.block_table) * block_size:
                    growing.append(sequence)
                rows.append(ScheduledRow(sequence, position, 1, True))
        return rows, growing, prefills

    def _add_chunks(self, rows: list[ScheduledRow], prefills: list[Sequence], budget: int) -> None:
        """Chunks in the order of admission; a long prompt at the head leaves up to half to those behind it."""
        behind = sum(s.num_uncomputed for s in prefills[1:])
        limit = max(budget - behind, -(-budget // 2))
        for sequence in prefills:
            start, left = sequence.num_computed, sequence.num_uncomputed
            count = min(left, budget, limit)
            if count <= 0:
                break
            rows.append(ScheduledRow(sequence, start, count, count == left))
            budget -= count
            limit = budget

    def _grow(self, rows: list[ScheduledRow], growing: list[Sequence], results_outstanding: bool) -> None:
        """Give every growing row its next block; where there is none, hold rows back or preempt."""
        pool = self.memory.pool
        if len(growing) > pool.available:
            if results_outstanding:
                self.held_back = True
                held = set(growing[pool.available :])
                rows[:] = [row for row in rows if row.sequence not in held]
                del growing[pool.available :]
            else:
                for victim in self.policy.preemption_order(self.running):
                    self._preempt(victim)
                    growing[:] = [s for s in growing if s.phase is Phase.RUNNING]
                    if len(growing) <= pool.available:
                        break
                rows[:] = [row for row in rows if row.sequence.phase is Phase.RUNNING]
        for sequence in growing:
            sequence.block_table.append(pool.allocate())

    def _admit(self, step_budget: int) -> None:
        """Start waiting sequences in the policy's order until slots, memory or this step's budget run out.

        The first that finds no memory ends it, so that small requests cannot keep a large one out for ever. One
        whose next prefix block a running sequence is computing is passed over until that block is there.
        """
        state = (self.memory.pool.num_releases, self._num_arrivals)
        if state == self._blocked and not self._awaited:
            return
        self._blocked = None
        budget, beside, reserve = self._room(step_budget)
        if budget <= 0 and beside <= 0:
            return
        for sequence in self.policy.admission_order(self.waiting, self.clock()):
            if sequence in self._awaited and self.memory.is_computing(self._awaited[sequence]):
                continue
            prefix = self.memory.find_prefix(sequence)
            if self.policy.shares_prefills and (key := self.memory.awaited_key(sequence, len(prefix))):
                self._awaited[sequence] = key
                continue
            if budget <= 0 and len(sequence.token_ids) - len(prefix) * self.memory.block_size > beside:
                return
            if not self.memory.admit(sequence, prefix, reserve if self.running else 0):
                self._blocked = state
                return
            self._start(sequence)
            budget -= sequence.num_uncomputed
            beside -= sequence.num_uncomputed
            reserve += GROWTH_RESERVE_TOKENS // self.memory.block_size
            if (budget <= 0 and beside <= 0) or not self._free_slots:
                return

    def _room(self, step_budget: int) -> tuple[int, int, int]:
        """Tokens that running sequences leave of the budget; tokens left beside a long prefill, for prompts that fit
        there whole; blocks that running sequences need to go on for a while.
        """
        budget, growing, growth, first_chunk = step_budget, 0, 0, 0
        block_size = self.memory.block_size
        for sequence in self.running:
            position = sequence.num_computed
            num_tokens = len(sequence.token_ids) + sequence.num_in_flight
            budget -= num_tokens - position
            if num_tokens - position > 1:
                first_chunk = first_chunk or num_tokens - position
            growing += position == len(sequence.block_table) * block_size
            growth += min(GROWTH_RESERVE_TOKENS, sequence.max_length - num_tokens)
        half = step_budget // 2
        beside = budget + first_chunk - half if first_chunk > half else 0
        return budget, beside, growing + growth // block_size

    def _start(self, sequence: Sequence) -> None:
        del self.waiting[sequence]
        self._awaited.pop(sequence, None)
        sequence.phase = Phase.RUNNING
        sequence.slot = heapq.heappop(self._free_slots)
        if sequence.num_preemptions == 0:
            sequence.num_cached = min(sequence.num_computed, sequence.num_prompt)
            sequence.scheduled_s = self.clock()
        self.running.append(sequence)
        self.policy.admitted(sequence)
        self.queue_watch.admitted(sequence, self.waiting)

    def _wait(self, sequence: Sequence) -> None:
        sequence.phase = Phase.WAITING
        self.waiting[sequence] = None
        self._num_arrivals += 1
        self.policy.arrived(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        """Give up its memory; what it had is computed again later, mostly from the prefix cache."""
        self.running.remove(sequence)
        self._vacate(sequence)
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        if not sequence.started:
            sequence.prompt_logprobs.clear()
        self._wait(sequence)

    def _vacate(self, sequence: Sequence) -> None:
        self.memory.release(sequence)
        heapq.heappush(self._free_slots, sequence.slot)
        self._released_slots.append(sequence.slot)
        sequence.slot = -1
        sequence.num_computed = 0
