"""The physical KV blocks: who holds how many references, which are free, which are idle but still cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from engine.errors import ConfigurationError

DUMMY_BLOCK = 0
"""Padding writes here; it is never handed out."""


class BlockAccountingError(RuntimeError):
    """A block was freed twice, shared while free, or the books do not balance: a bug, not a client's fault."""


class BlockPool:
    """Blocks 1 .. num_blocks - 1, each in exactly one state; every operation is O(1) a block.

    * free: no reference, content worthless;
    * idle: no reference, content kept for the prefix cache, taken back least recently used first;
    * used: one reference for each block table it stands in.

    Partial blocks are never shared (the prefix cache knows full blocks only and full blocks are never written
    again), so a shared block needs no copy on write.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise ConfigurationError(
                f"num_blocks is {num_blocks}; one dummy and at least one usable block are needed"
            )
        self.num_usable = num_blocks - 1
        self._references = [0] * num_blocks
        self._kept = bytearray(num_blocks)
        self._free = list(range(num_blocks - 1, DUMMY_BLOCK, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self.generations = [0] * num_blocks
        """How often each block was handed out afresh: a note of (block, generation) is stale once this moved on."""
        self.num_releases = 0
        """Grows whenever blocks came back, so that a waiting request knows when to look again."""

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out now, free and idle."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        return self.num_usable - len(self._free) - len(self._idle)

    @property
    def idle(self) -> int:
        return len(self._idle)

    def is_idle(self, block: int) -> bool:
        return block in self._idle

    def allocate(self) -> int:
        """One block of unknown content, referenced once. The caller has checked `available`."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            self._kept[block] = 0
        else:
            raise BlockAccountingError("no block is available")
        self._references[block] = 1
        self.generations[block] += 1
        return block

    def share(self, block: int) -> None:
        """One more reference to a used or idle block."""
        if self._references[block] == 0:
            if block not in self._idle:
                raise BlockAccountingError(f"block {block} is free and cannot be shared")
            del self._idle[block]
        self._references[block] += 1

    def keep(self, block: int) -> None:
        """The prefix cache wants this used block's content: without references it becomes idle, not free."""
        if self._references[block] == 0:
            raise BlockAccountingError(f"block {block} is not in use and cannot be kept")
        self._kept[block] = 1

    def release(self, table: list[int]) -> None:
        """Give back every block of a table and empty it, tail first: a prefix outlives what hangs on it."""
        while table:
            block = table.pop()
            if self._references[block] == 0:
                raise BlockAccountingError(f"block {block} was freed twice")
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._kept[block]:
                    self._idle[block] = None
                else:
                    self._free.append(block)
        self.num_releases += 1

    def forget_contents(self) -> None:
        """No content is worth keeping any more: idle blocks become free, used ones will."""
        self._kept = bytearray(len(self._kept))
        self._free.extend(self._idle)
        self._idle.clear()

    def check(self, tables: Iterable[list[int]]) -> None:
        """Compare the books with the tables that should account for every reference. O(blocks); for tests."""
        expected = [0] * len(self._references)
        for table in tables:
            for block in table:
                expected[block] += 1
        if expected != self._references:
            wrong = [b for b, n in enumerate(expected) if n != self._references[b]]
            raise BlockAccountingError(f"references of blocks {wrong} do not match the block tables")
        unused = {*self._free, *self._idle}
        if len(unused) != len(self._free) + len(self._idle) or any(map(expected.__getitem__, unused)):
            raise BlockAccountingError("a block is in two states at once")
        if DUMMY_BLOCK in unused or expected[DUMMY_BLOCK]:
            raise BlockAccountingError("the dummy was handed out")
        if len(unused) + len(expected) - expected.count(0) != self.num_usable:
            raise BlockAccountingError("blocks were lost")
        if not all(map(self._kept.__getitem__, self._idle)) or any(map(self._kept.__getitem__, self._free)):
            raise BlockAccountingError("an idle block is not kept, or a kept block is free")
