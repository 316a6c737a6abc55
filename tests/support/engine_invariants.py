"""What must hold of an EngineCore between any two steps, checked from the outside."""

from __future__ import annotations

from engine.core import EngineCore
from engine.memory.sequence_memory import SequenceMemory
from engine.request import Phase, Sequence
from tests.support.scripted_runner import ScriptedRunner, require, tokens_in


def check_core(core: EngineCore, runner: ScriptedRunner, hogged: list[list[int]]) -> None:
    """Books, tables, slots, cached contents and bounds. `hogged`: blocks that the test itself took from the pool."""
    scheduler, memory = core.scheduler, core.memory
    running, waiting, free_slots = scheduler.running, scheduler.waiting, scheduler._free_slots
    memory.pool.check([s.block_table for s in running] + hogged)
    require(len(running) <= runner.max_num_seqs, "too many sequences run")
    require({*scheduler.live.values()} == {*running, *waiting}, "a sequence was lost")
    require(len(scheduler.live) == len(running) + len(waiting), "a sequence is in two places")
    slots = {*free_slots, *(s.slot for s in running)}
    require(len(slots) == len(free_slots) + len(running), "a slot is taken twice")
    require(len(slots) == runner.max_num_seqs, "a slot was lost")
    for sequence in running:
        _check_running(sequence, memory, int(runner.pipelined))
    for sequence in waiting:
        require(sequence.phase is Phase.WAITING, "a waiting sequence is not marked so")
        require(not sequence.block_table and sequence.slot == -1, "a waiting sequence holds memory")
        require(sequence.num_computed == sequence.num_in_flight == 0, "a waiting sequence is half computed")
    require({*running}.issuperset(memory._computing.values()), "a block is awaited from nobody")


def _check_running(sequence: Sequence, memory: SequenceMemory, max_in_flight: int) -> None:
    num_blocks, computed = len(sequence.block_table), sequence.num_computed
    require(sequence.phase is Phase.RUNNING, "a running sequence is not marked so")
    require(computed <= num_blocks * memory.block_size, "a position has no block")
    covered = memory.blocks_for(max(len(sequence.token_ids), computed))
    require(num_blocks <= covered, "a block table is longer than its tokens")
    require(0 <= sequence.num_in_flight <= max_in_flight, "the count of tokens in flight is impossible")


def check_cache(core: EngineCore, runner: ScriptedRunner) -> None:
    """Every block that a key finds holds the tokens it is found for."""
    if core.memory.cache is not None:
        for block, tokens in core.memory.cache.contents().items():
            require(tokens_in(runner.cells[block]) == tokens, f"block {block} is cached for other tokens")


def check_idle(core: EngineCore, hogged: list[list[int]]) -> None:
    """Nothing is left behind when everything is over."""
    stats = core.stats()
    require(stats.num_running == stats.num_waiting == 0, "a request is left")
    require(stats.kv_blocks_used == len({b for table in hogged for b in table}), "blocks are left in use")
    require(not core.memory._computing and not core.scheduler._awaited, "a shared prefill is still awaited")
