"""Classic scheduler and allocator bugs, planted one at a time: the simulator must find every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engine.core import EngineCore
from engine.memory.block_pool import BlockPool
from engine.memory.prefix_cache import PrefixCache
from engine.memory.sequence_memory import SequenceMemory
from engine.request import Phase, Sequence
from engine.runner.batch import ScheduledRow, StepBatch
from engine.scheduling import results
from engine.scheduling.budget import StepBudget
from engine.scheduling.results import ResultCollector
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.shortest_first import FairShortestFirst

Mutation = Callable[[Any], Any]
"""Takes the original function, gives the broken one."""


def no_free_on_cancel(original: Any) -> Any:
    def vacate(self: Scheduler, sequence: Sequence) -> None:
        if sequence.finish_reason == "abort":
            table, sequence.block_table = sequence.block_table, []
            original(self, sequence)
            del table
        else:
            original(self, sequence)

    return vacate


def free_twice(original: Any) -> Any:
    def release(self: SequenceMemory, sequence: Sequence) -> None:
        table = list(sequence.block_table)
        original(self, sequence)
        if len(table) > 3:
            self.pool.release(table[:1])

    return release


def forget_the_salt(original: Any) -> Any:
    def extend_keys(self: PrefixCache, keys: list[bytes], tokens: list[int], count: int, salt: str) -> None:
        original(self, keys, tokens, count, "")

    return extend_keys


def share_the_writable_tail(original: Any) -> Any:
    def find_prefix(self: SequenceMemory, sequence: Sequence) -> list[int]:
        prefix: list[int] = original(self, sequence)
        for other in list(self._computing.values()):
            tail = len(prefix)
            if tail < len(other.block_table) and (tail + 1) * self.block_size < len(sequence.token_ids):
                return [*prefix, other.block_table[tail]]
        return prefix

    return find_prefix


def match_the_last_token(original: Any) -> Any:
    def find_prefix(self: SequenceMemory, sequence: Sequence) -> list[int]:
        prefix: list[int] = original(self, sequence)
        count = len(sequence.token_ids) // self.block_size
        if self.cache is None or len(prefix) == count:
            return prefix
        keys: list[bytes] = []
        self.cache.extend_keys(keys, sequence.token_ids, count, sequence.request.cache_salt)
        return self.cache.match(keys, sequence.token_ids, count)

    return find_prefix


def publish_before_it_is_full(original: Any) -> Any:
    def publish(self: SequenceMemory, sequence: Sequence, num_computed: int) -> None:
        whole = len(sequence.token_ids) // self.block_size * self.block_size
        original(self, sequence, max(num_computed, whole))

    return publish


def one_block_short(original: Any) -> Any:
    def blocks_for(self: SequenceMemory, num_tokens: int) -> int:
        return max(1, num_tokens // self.block_size)

    return blocks_for


def no_growth_at_a_boundary(original: Any) -> Any:
    def grow(self: Scheduler, rows: list[ScheduledRow], growing: list[Sequence], outstanding: bool) -> None:
        original(self, rows, growing[1:], outstanding)

    return grow


def stale_blocks_are_found(original: Any) -> Any:
    def match(self: PrefixCache, keys: list[bytes], tokens: list[int], count: int) -> list[int]:
        found: list[int] = []
        for key in keys[:count]:
            entry = self._blocks.get(key)
            if entry is None:
                break
            found.append(entry.block)
        return found

    return match


def preemption_keeps_its_position(original: Any) -> Any:
    def vacate(self: Scheduler, sequence: Sequence) -> None:
        computed = sequence.num_computed
        original(self, sequence)
        sequence.num_computed = computed

    return vacate


def preempted_requests_are_lost(original: Any) -> Any:
    def preempt(self: Scheduler, sequence: Sequence) -> None:
        original(self, sequence)
        del self.waiting[sequence]

    return preempt


def slots_are_not_given_back(original: Any) -> Any:
    def vacate(self: Scheduler, sequence: Sequence) -> None:
        slot = sequence.slot
        original(self, sequence)
        if slot == 0:
            self._free_slots.remove(slot)

    return vacate


def one_token_too_many(original: Any) -> Any:
    def decode_rows(self: Scheduler, selected: list[Sequence]) -> Any:
        for sequence in selected:
            sequence.max_length += 1
        answer = original(self, selected)
        for sequence in selected:
            sequence.max_length -= 1
        return answer

    return decode_rows


def late_results_of_the_finished_are_emitted(original: Any) -> Any:
    def collect(self: ResultCollector, batch: StepBatch, result: Any) -> Any:
        outputs = original(self, batch, result)
        gone = [row.sequence for row in batch.rows if row.sequence.phase is Phase.FINISHED]
        known = {output.request_id for output in outputs}
        outputs += [results.RequestOutput(s.request_id, (1,)) for s in gone if s.request_id not in known]
        return outputs

    return collect


def failed_steps_are_forgotten(original: Any) -> Any:
    def fail_batch(self: ResultCollector, batch: StepBatch, message: str) -> list[Any]:
        return []

    return fail_batch


def history_is_not_waited_for(original: Any) -> Any:
    def launch(self: EngineCore, batch: StepBatch, outputs: list[Any]) -> Any:
        launched = original(self, batch, outputs)
        if launched is not None and self.runner.pipelined:
            launched[1].finish_launch()
        return launched

    return launch


def reset_frees_blocks_in_use(original: Any) -> Any:
    def forget_contents(self: BlockPool) -> None:
        self._free.extend(block for block, count in enumerate(self._references) if count)
        original(self)

    return forget_contents


def a_waiting_sibling_is_never_woken(original: Any) -> Any:
    def is_computing(self: SequenceMemory, key: bytes) -> bool:
        return True

    return is_computing


def the_budget_is_overrun(original: Any) -> Any:
    def schedule(self: Scheduler, results_outstanding: bool = False) -> StepBatch:
        budget, self._step_budget = self._step_budget, StepBudget(10**6)
        batch: StepBatch = original(self, results_outstanding)
        self._step_budget = budget
        return batch

    return schedule


def prompt_logprobs_survive_preemption(original: Any) -> Any:
    def preempt(self: Scheduler, sequence: Sequence) -> None:
        kept = list(sequence.prompt_logprobs)
        original(self, sequence)
        sequence.prompt_logprobs[:] = kept

    return preempt


def the_oldest_get_no_share(original: Any) -> Any:
    def admitted(self: FairShortestFirst, sequence: Sequence) -> None:
        pass

    return admitted


MUTATIONS: dict[str, tuple[type, str, Mutation]] = {
    mutation.__name__: (owner, name, mutation)
    for owner, name, mutation in (
        (Scheduler, "_vacate", no_free_on_cancel),
        (SequenceMemory, "release", free_twice),
        (PrefixCache, "extend_keys", forget_the_salt),
        (SequenceMemory, "find_prefix", share_the_writable_tail),
        (SequenceMemory, "find_prefix", match_the_last_token),
        (SequenceMemory, "publish", publish_before_it_is_full),
        (SequenceMemory, "blocks_for", one_block_short),
        (Scheduler, "_grow", no_growth_at_a_boundary),
        (PrefixCache, "match", stale_blocks_are_found),
        (Scheduler, "_vacate", preemption_keeps_its_position),
        (Scheduler, "_preempt", preempted_requests_are_lost),
        (Scheduler, "_vacate", slots_are_not_given_back),
        (Scheduler, "_decode_rows", one_token_too_many),
        (ResultCollector, "collect", late_results_of_the_finished_are_emitted),
        (ResultCollector, "fail_batch", failed_steps_are_forgotten),
        (EngineCore, "_launch", history_is_not_waited_for),
        (BlockPool, "forget_contents", reset_frees_blocks_in_use),
        (SequenceMemory, "is_computing", a_waiting_sibling_is_never_woken),
        (Scheduler, "schedule", the_budget_is_overrun),
        (Scheduler, "_preempt", prompt_logprobs_survive_preemption),
        (FairShortestFirst, "admitted", the_oldest_get_no_share),
    )
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The engine with one bug."""
    owner, attribute, mutation = MUTATIONS[name]
    original = getattr(owner, attribute)
    setattr(owner, attribute, mutation(original))
    try:
        yield
    finally:
        setattr(owner, attribute, original)
