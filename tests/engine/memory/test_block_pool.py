"""Block pool against a dictionary that is obviously right."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import ConfigurationError
from engine.memory.block_pool import BlockAccountingError, BlockPool


class BlockPoolMachine(RuleBasedStateMachine):
    """Allocate, share, keep, release and forget in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(9)
        self.tables: list[list[int]] = []
        self.idle: list[int] = []  # the model's own LRU order
        self.kept: set[int] = set()

    def references(self, block: int) -> int:
        return sum(table.count(block) for table in self.tables)

    @rule(count=st.integers(1, 4))
    def allocate(self, count: int) -> None:
        if count > self.pool.available:
            return
        table = []
        for _ in range(count):
            expects_idle = self.pool.available == self.pool.idle
            generation = list(self.pool.generations)
            block = self.pool.allocate()
            assert self.pool.generations[block] == generation[block] + 1
            if expects_idle:
                assert block == self.idle.pop(0)  # the least recently used goes first
            assert block not in self.idle
            self.kept.discard(block)
            table.append(block)
        self.tables.append(table)

    @precondition(lambda self: self.tables or self.idle)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted({b for t in self.tables for b in t} | set(self.idle))))
        self.pool.share(block)
        if block in self.idle:
            self.idle.remove(block)
        self.tables.append([block])

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted({b for t in self.tables for b in t})))
        self.pool.keep(block)
        self.kept.add(block)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        blocks = list(table)
        self.pool.release(table)
        assert table == []
        for block in reversed(blocks):
            if self.references(block) == 0 and block in self.kept and block not in self.idle:
                self.idle.append(block)

    @rule()
    def forget(self) -> None:
        self.pool.forget_contents()
        self.idle.clear()
        self.kept.clear()

    @invariant()
    def books_balance(self) -> None:
        self.pool.check(self.tables)
        assert self.pool.used == len({b for t in self.tables for b in t})
        assert self.pool.used + self.pool.available == self.pool.num_usable == 8
        assert self.pool.idle == len(self.idle)


TestBlockPool = BlockPoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_dummy_is_never_handed_out() -> None:
    pool = BlockPool(4)
    assert sorted(pool.allocate() for _ in range(3)) == [1, 2, 3]
    with pytest.raises(BlockAccountingError):
        pool.allocate()
    with pytest.raises(ConfigurationError):
        BlockPool(1)


def test_a_double_free_is_an_error() -> None:
    pool = BlockPool(4)
    block = pool.allocate()
    pool.release([block])
    with pytest.raises(BlockAccountingError, match="freed twice"):
        pool.release([block])


def test_what_is_not_in_use_can_neither_be_shared_nor_kept() -> None:
    pool = BlockPool(4)
    for operation in (pool.share, pool.keep):
        with pytest.raises(BlockAccountingError):
            operation(1)


def test_the_check_finds_a_lost_reference() -> None:
    pool = BlockPool(4)
    pool.allocate()
    with pytest.raises(BlockAccountingError):
        pool.check([])
