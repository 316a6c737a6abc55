"""How many leading keys all decode rows of a step have in common, so that attention reads them once."""

from __future__ import annotations

import numpy as np

from engine.runner.batch import ScheduledRow
from engine.runner.slot_mirror import SlotMirror

MIN_ROWS = 8
MIN_TOKENS = 512
MIN_TOKENS_SAVED = 8192
"""Reads of a token's keys and values that are saved in a layer. A kernel more takes some 3 us, in which so many come
from the L2 cache."""


class SharedPrefix:
    """Compares block tables, only when rows have come or gone: what the prefix cache shares has equal ids."""

    def __init__(self, mirror: SlotMirror, block_size: int) -> None:
        self._mirror = mirror
        self._block_size = block_size
        self._known: tuple[int, int] | None = None
        self._tokens = 0

    def tokens(self, rows: tuple[ScheduledRow, ...], count: int) -> int:
        """A multiple of the block size, less than any context of the first `count` rows, which the mirror knows;
        0 where it is not worth a kernel of its own.

        While the same rows run it stays as it is: their tables and contexts only grow, by blocks of their own.
        """
        now = (self._mirror.changes, count)
        if now != self._known:
            self._known = now
            self._tokens = self._find(rows[:count]) if count >= MIN_ROWS else 0
        return self._tokens

    def _find(self, rows: tuple[ScheduledRow, ...]) -> int:
        # The last token's own keys are stored by the step itself: they are no part of what is shared.
        most = min(row.start for row in rows) // self._block_size
        tokens_saved_per_block = (len(rows) - 1) * self._block_size
        least = max(-(-MIN_TOKENS // self._block_size), -(-MIN_TOKENS_SAVED // tokens_saved_per_block))
        if most < least:
            return 0
        tables, slots = self._mirror.tables, np.array([row.sequence.slot for row in rows])
        first = tables[slots[0]]
        if (tables[slots, least - 1] != first[least - 1]).any():  # most loads share nothing
            return 0
        same = (tables[slots, :most] == first[:most]).all(axis=0)
        blocks = most if same.all() else int(same.argmin())
        return blocks * self._block_size if blocks >= least else 0
