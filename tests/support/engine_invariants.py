"""What must hold of an EngineCore between any two steps, checked from the outside."""

from __future__ import annotations

from engine.core import EngineCore
from engine.request import Phase
from tests.support.scripted_runner import ScriptedRunner, require, tokens_in


def check_core(core: EngineCore, runner: ScriptedRunner, hogged: list[list[int]]) -> None:
    """Books, tables, slots, cached contents and bounds. `hogged`: blocks that the test itself took from the pool."""
    scheduler, memory = core.scheduler, core.memory
    running, waiting = scheduler.running, list(scheduler.waiting)
    memory.pool.check([s.block_table for s in running] + hogged)
    require(len(running) <= runner.max_num_seqs, "too many sequences run")
    require(set(scheduler.live.values()) == set(running) | set(waiting), "a sequence was lost")
    require(len(scheduler.live) == len(running) + len(waiting), "a sequence is in two places")
    slots = [s.slot for s in running]
    require(len(set(slots)) == len(slots) and not set(slots) & set(scheduler._free_slots), "a slot is taken twice")
    require(len(slots) + len(scheduler._free_slots) == runner.max_num_seqs, "a slot was lost")
    for sequence in running:
        require(sequence.phase is Phase.RUNNING, "a running sequence is not marked so")
        require(sequence.num_computed <= len(sequence.block_table) * memory.block_size, "a position has no block")
        covered = memory.blocks_for(max(len(sequence.token_ids), sequence.num_computed))
        require(len(sequence.block_table) <= covered, "a block table is longer than its tokens")
        require(0 <= sequence.num_in_flight <= int(runner.pipelined), "the count of tokens in flight is impossible")
    for sequence in waiting:
        require(sequence.phase is Phase.WAITING, "a waiting sequence is not marked so")
        require(not sequence.block_table and sequence.slot == -1, "a waiting sequence holds memory")
        require(sequence.num_computed == sequence.num_in_flight == 0, "a waiting sequence is half computed")
    require(set(memory._computing.values()) <= set(running), "a block is awaited from nobody")


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
