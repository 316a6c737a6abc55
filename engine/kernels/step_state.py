"""What the device knows about each running request, and how a step's inputs come from it.

All of it lies in one int32 tensor, so that whatever the host has to tell the device in a step is one list of
(offset, value) pairs: one small copy, one scatter. Decode steps need no host data at all while the same requests run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.common import ceil_div


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Offsets into the flat int32 state. Slot `slots` is a dummy: padding rows of a graph point to it."""

    slots: int
    rows: int
    table_width: int

    @property
    def span(self) -> int:
        """Words a field takes: one a slot and the dummy's, rounded up to 16 bytes."""
        return -(-(self.slots + 1) // 4) * 4

    @property
    def last_token(self) -> int:
        return 0

    @property
    def position(self) -> int:
        """Position of the last token: where the next decode step writes its keys and values."""
        return self.span

    @property
    def temperature(self) -> int:
        """Bits of a float32; 0.0 is greedy."""
        return 2 * self.span

    @property
    def seed_low(self) -> int:
        return 3 * self.span

    @property
    def seed_high(self) -> int:
        return 4 * self.span

    @property
    def row_slot(self) -> int:
        """Slot of each row of the current step."""
        return 5 * self.span

    @property
    def shared_len(self) -> int:
        """One word: the first keys that all decode rows of the step share; read by steps that make use of it."""
        return self.row_slot + -(-self.rows // 4) * 4

    @property
    def tables(self) -> int:
        """Block table of each slot."""
        return self.shared_len + 4

    @property
    def size(self) -> int:
        return self.tables + (self.slots + 1) * self.table_width

    def fresh(self, device: torch.device) -> torch.Tensor:
        """The state before any request: every row is the dummy, every block the dummy block."""
        state = torch.zeros(self.size, dtype=torch.int32, device=device)
        state[self.row_slot : self.shared_len] = self.slots
        return state


@triton.jit(do_not_specialize=["count"])
def _scatter(state, pairs, count, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = index < count
    offset = tl.load(pairs + 2 * index, mask=known, other=0)
    value = tl.load(pairs + 2 * index + 1, mask=known, other=0)
    tl.store(state + offset, value, mask=known)


def apply_updates(state: torch.Tensor, pairs: torch.Tensor) -> None:
    """state[offset] = value for pairs [count, 2] int32 on the device. No offset may occur twice."""
    count = pairs.shape[0]
    _scatter[(ceil_div(count, 512),)](state, pairs, count, BLOCK=512, num_warps=4)


@triton.jit(do_not_specialize=["decode_rows"])
def _prepare_rows(
    state,
    token_ids,
    positions,
    slot_mapping,
    context_len,
    block_table,
    decode_rows,
    position_at,
    row_slot_at,
    tables_at,
    TABLE_WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    slot = tl.load(state + row_slot_at + row)
    table = state + tables_at + slot.to(tl.int64) * TABLE_WIDTH
    if row < decode_rows:
        position = tl.load(state + position_at + slot)
        tl.store(token_ids + row, tl.load(state + slot))
        tl.store(positions + row, position)
        tl.store(context_len + row, position + 1)
        page = tl.load(table + position // PAGE).to(tl.int64)
        tl.store(slot_mapping + row, page * PAGE + position % PAGE)
        length = position + 1
    else:
        length = tl.load(context_len + row)
    for start in range(0, tl.cdiv(length, PAGE), BLOCK):
        index = start + tl.arange(0, BLOCK)
        known = index < tl.minimum(tl.cdiv(length, PAGE), TABLE_WIDTH)
        entries = tl.load(table + index, mask=known, other=0)
        tl.store(block_table + row.to(tl.int64) * TABLE_WIDTH + index, entries, mask=known)


def prepare_rows(
    state: torch.Tensor,
    layout: StateLayout,
    rows: int,
    decode_rows: int,
    block_size: int,
    token_ids: torch.Tensor,  # [tokens] int32
    positions: torch.Tensor,  # [tokens] int32
    slot_mapping: torch.Tensor,  # [tokens]
    context_len: torch.Tensor,  # [rows] int32; given for rows that are no decode rows
    block_table: torch.Tensor,  # [rows, table_width] int32
) -> None:
    """Fill a step's inputs from the state: everything for decode rows, the block table alone for the others."""
    _prepare_rows[(rows,)](
        state,
        token_ids,
        positions,
        slot_mapping,
        context_len,
        block_table,
        decode_rows,
        layout.position,
        layout.row_slot,
        layout.tables,
        TABLE_WIDTH=layout.table_width,
        PAGE=block_size,
        BLOCK=128,
        num_warps=4,
    )
