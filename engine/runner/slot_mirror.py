"""The host's memory of what the device knows of each slot, so that a step sends only what is new."""

from __future__ import annotations

import struct

import numpy as np
import torch

from engine.kernels.step_state import StateLayout
from engine.request import Sequence
from engine.runner.batch import ScheduledRow
from engine.runner.special_plan import is_special


class SlotMirror:
    """Turns the scheduler's rows into the few words that the device does not know yet."""

    def __init__(self, layout: StateLayout, device: torch.device) -> None:
        self._layout = layout
        self.state = layout.fresh(device)
        self.special = [False] * (layout.slots + 1)
        """Of each slot: whether its rows need more than temperature."""
        self._owner: list[Sequence | None] = [None] * (layout.slots + 1)
        self._position = [-1] * (layout.slots + 1)
        self._blocks = [0] * (layout.slots + 1)
        self.tables = np.zeros((layout.slots + 1, layout.table_width), dtype=np.int32)
        """Block table of each slot, as the device has it once the updates are sent."""
        self.changes = 0
        """Steps whenever decode rows come, go or move."""
        self._shared_len = 0
        self._row_slot = [layout.slots] * layout.rows
        self.updates: list[int] = []
        """Offset, value, offset, value, ...: to be sent before the step."""

    def forget(self, slot: int) -> None:
        self._owner[slot] = None
        self.changes += 1

    def decode_rows(self, rows: tuple[ScheduledRow, ...], count: int) -> bool:
        """Rows 0 .. count - 1 take one token each, the one at `row.start`. Whether any of them is special."""
        special = False
        owner, position, blocks, row_slot = self._owner, self._position, self._blocks, self._row_slot
        for number in range(count):
            row = rows[number]
            sequence = row.sequence
            slot = sequence.slot
            if owner[slot] is not sequence:
                self._adopt(sequence)
            if position[slot] != row.start:
                self.updates += (self._layout.last_token + slot, sequence.token_ids[row.start])
                self.updates += (self._layout.position + slot, row.start)
            position[slot] = row.start + 1
            if blocks[slot] != len(sequence.block_table):
                self._send_blocks(sequence)
            if row_slot[number] != slot:
                row_slot[number] = slot
                self.changes += 1
                self.updates += (self._layout.row_slot + number, slot)
            special |= self.special[slot]
        return special

    def meet(self, rows: tuple[ScheduledRow, ...], first: int) -> bool:
        """Rows from `first` on are chunks of prompts, maybe of new sequences. Whether any of them is special."""
        special = False
        for number in range(first, len(rows)):
            sequence = rows[number].sequence
            slot = sequence.slot
            if self._owner[slot] is not sequence:
                self._adopt(sequence)
            if self._blocks[slot] != len(sequence.block_table):
                self._send_blocks(sequence)
            special |= self.special[slot]
        return special

    def prefill_rows(self, rows: tuple[ScheduledRow, ...], first: int, place: int) -> None:
        """The chunks take the step's rows from `place` on."""
        for number in range(first, len(rows)):
            row, at = rows[number], place + number - first
            slot = row.sequence.slot
            if self._row_slot[at] != slot:
                self._row_slot[at] = slot
                self.updates += (self._layout.row_slot + at, slot)
            if row.samples:
                # The sampler steps one on from the last prompt token.
                self.updates += (self._layout.position + slot, row.start + row.count - 1)
                self._position[slot] = row.start + row.count

    def pad_rows(self, first: int, last: int) -> None:
        """Rows first .. last - 1 of a graph belong to nobody."""
        dummy = self._layout.slots
        for number in range(first, last):
            if self._row_slot[number] != dummy:
                self._row_slot[number] = dummy
                self.updates += (self._layout.row_slot + number, dummy)

    def share(self, tokens: int) -> None:
        """All decode rows of the step have their first `tokens` keys in common."""
        if tokens != self._shared_len:
            self._shared_len = tokens
            self.updates += (self._layout.shared_len, tokens)

    def _adopt(self, sequence: Sequence) -> None:
        slot, layout, params = sequence.slot, self._layout, sequence.request.sampling
        self._owner[slot] = sequence
        self.changes += 1
        self.special[slot] = is_special(sequence.request)
        self._position[slot] = -1
        self._blocks[slot] = 0
        seed = (params.seed or 0) & 0xFFFFFFFFFFFFFFFF
        temperature = 0.0 if params.greedy else params.temperature
        self.updates += (layout.temperature + slot, float_bits(temperature))
        self.updates += (layout.seed_low + slot, _signed(seed & 0xFFFFFFFF))
        self.updates += (layout.seed_high + slot, _signed(seed >> 32))

    def _send_blocks(self, sequence: Sequence) -> None:
        """The block table's new end; tables only grow while a sequence keeps its slot."""
        slot, table = sequence.slot, sequence.block_table
        sent = self._blocks[slot] if self._blocks[slot] < len(table) else 0
        at = self._layout.tables + slot * self._layout.table_width
        for index in range(sent, len(table)):
            self.updates += (at + index, table[index])
        self.tables[slot, sent : len(table)] = table[sent:]
        self.changes += not sent
        self._blocks[slot] = len(table)


def _signed(word: int) -> int:
    return word - ((word & 0x80000000) << 1)


def float_bits(value: float) -> int:
    """The bits of a float32 as a signed int32."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])
