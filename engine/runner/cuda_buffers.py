"""What a step reads on the device, and the way the host's words get there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from engine.attention.base import AttentionMetadata
from engine.kernels.step_state import StateLayout, apply_updates
from engine.runner.batch import ScheduledRow
from engine.runner.slot_mirror import SlotMirror

RING = 4
"""Host buffers in rotation: at most two steps are in flight, so the oldest is long read."""


@dataclass(frozen=True, slots=True)
class StepTensors:
    """One step's inputs on the device, int32."""

    token_ids: torch.Tensor  # [tokens]
    metadata: AttentionMetadata
    slots: torch.Tensor  # [rows] of whom each row's next token is sampled; the dummy: of nobody


def _aligned(words: int) -> int:
    """Rounded up to 16 bytes: kernels are compiled anew for pointers that are not."""
    return -(-words // 4) * 4


def new_event() -> torch.cuda.Event:
    """An event without a clock, which is cheaper; waiting for it does not spin."""
    return torch.cuda.Event()


class HostRing:
    """Page-locked staging buffers that take turns; each waits for the copy that used it last."""

    def __init__(self, words: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._buffers = [torch.empty(words, dtype=torch.int32, pin_memory=self._cuda) for _ in range(RING)]
        self._arrays = [buffer.numpy() for buffer in self._buffers]
        self._events: list[torch.cuda.Event | None] = [None] * RING
        self._next = 0

    def take(self) -> np.ndarray:
        """The next buffer as an int32 array; its last copy is done."""
        event = self._events[self._next]
        if event is not None:
            event.synchronize()
        return self._arrays[self._next]

    def send(self, words: int, target: torch.Tensor) -> None:
        """Start copying the first words of the buffer just taken to `target`."""
        target[:words].copy_(self._buffers[self._next][:words], non_blocking=True)
        if self._cuda:
            event = new_event()
            event.record()
            self._events[self._next] = event
        self._next = (self._next + 1) % RING


class MixedShape(NamedTuple):
    """What a step with prompt chunks is padded to: rows of decode, rows of chunks, tokens of chunks."""

    decode: int
    chunks: int
    tokens: int
    shared: bool = False
    """Whether the decode rows share a prefix, which attention reads once."""


class StepBuffers:
    """Device tensors that steps read, and the way the host's words get into them."""

    def __init__(
        self, layout: StateLayout, max_tokens: int, block_size: int, vocab_size: int, device: torch.device
    ) -> None:
        self.layout = layout
        self._vocab_size = vocab_size
        self.unknown_ids: list[str] = []
        """Requests of the last chunks whose prompts hold ids outside the vocabulary; zeros were run instead."""
        self.block_size = block_size
        self.max_tokens = max_tokens
        self.mirror = SlotMirror(layout, device)
        # Per token: id, position, slot. Per row: start, context, sampling slot. The rest: updates.
        self._update_words = 2 * (layout.slots + 1) * (8 + layout.table_width)
        words = 3 * _aligned(max_tokens) + 3 * _aligned(layout.rows + 1) + self._update_words
        self._ring = HostRing(words, device)
        self._staging = torch.zeros(words, dtype=torch.int32, device=device)
        self.block_table = torch.zeros((layout.rows, layout.table_width), dtype=torch.int32, device=device)
        self._decode = torch.zeros((4, _aligned(layout.rows)), dtype=torch.int32, device=device)
        self._row_starts = torch.arange(layout.rows + 1, dtype=torch.int32).to(device)

    @property
    def state(self) -> torch.Tensor:
        return self.mirror.state

    def _shared_len(self, shared: bool) -> torch.Tensor | None:
        at = self.layout.shared_len
        return self.state[at : at + 1] if shared else None

    def decode_tensors(self, rows: int, max_context_len: int, shared: bool = False) -> StepTensors:
        """Inputs of a pure decode step of `rows` rows: always the same memory, filled on the device."""
        layout = self.layout
        metadata = AttentionMetadata(
            query_start=self._row_starts[: rows + 1],
            context_len=self._decode[2, :rows],
            block_table=self.block_table[:rows],
            slot_mapping=self._decode[3, :rows],
            positions=self._decode[1, :rows],
            num_decode_rows=rows,
            max_query_len=1,
            max_context_len=max_context_len,
            block_size=self.block_size,
            shared_len=self._shared_len(shared),
        )
        return StepTensors(self._decode[0, :rows], metadata, self.state[layout.row_slot : layout.row_slot + rows])

    def send_updates(self) -> None:
        """Bring the device's state up to date; nothing to do in most decode steps."""
        updates = self.mirror.updates
        if updates:
            for first in range(0, len(updates), self._update_words):
                part = updates[first : first + self._update_words]
                self._ring.take()[: len(part)] = part
                self._ring.send(len(part), self._staging)
                apply_updates(self.state, self._staging[: len(part)].view(-1, 2))
            updates.clear()

    def mixed_tensors(self, shape: MixedShape, max_query_len: int, max_context_len: int) -> StepTensors:
        """Inputs of a step with chunks: for one shape always the same memory, all rows but the decode rows' filled
        by `send_mixed`."""
        rows, tokens, staged = shape.decode + shape.chunks, shape.decode + shape.tokens, self._staging
        span, row_span = _aligned(tokens), _aligned(rows + 1)
        starts, contexts = 3 * span, 3 * span + row_span
        metadata = AttentionMetadata(
            query_start=staged[starts : starts + rows + 1],
            context_len=staged[contexts : contexts + rows],
            block_table=self.block_table[:rows],
            slot_mapping=staged[2 * span : 2 * span + tokens],
            positions=staged[span : span + tokens],
            num_decode_rows=shape.decode,
            max_query_len=max_query_len,
            max_context_len=max_context_len,
            block_size=self.block_size,
            shared_len=self._shared_len(shape.shared),
        )
        return StepTensors(staged[:tokens], metadata, self.mixed_slots(shape))

    def mixed_slots(self, shape: MixedShape) -> torch.Tensor:
        """[rows] int32 of a step with chunks: whose next token each row gives; the dummy where of nobody's."""
        rows = shape.decode + shape.chunks
        first = 3 * _aligned(shape.decode + shape.tokens) + 2 * _aligned(rows + 1)
        return self._staging[first : first + rows]

    def send_mixed(self, rows: tuple[ScheduledRow, ...], decode_rows: int, shape: MixedShape) -> None:
        """Send the chunks and where everything stands; rows and tokens that only pad belong to nobody."""
        self.send_updates()
        self.unknown_ids = []
        total, places = shape.decode + shape.tokens, shape.decode + shape.chunks
        span, row_span = _aligned(total), _aligned(places + 1)
        host = self._ring.take()
        host[: 3 * span] = 0
        host[2 * span : 3 * span] = -1
        ids, positions, slots = (host[part * span : part * span + total] for part in range(3))
        starts, contexts, owners = (
            host[3 * span + part * row_span : 3 * span + part * row_span + places + 1] for part in range(3)
        )
        starts[: shape.decode + 1] = np.arange(shape.decode + 1)
        contexts[:] = 0
        owners[:] = self.layout.slots
        for number in range(decode_rows):
            owners[number] = rows[number].sequence.slot
        first = shape.decode
        for number in range(decode_rows, len(rows)):
            row, place = rows[number], shape.decode + number - decode_rows
            self._fill_chunk(row, slice(first, first + row.count), ids, positions, slots)
            first += row.count
            starts[place + 1] = first
            contexts[place] = row.start + row.count
            if row.samples:
                owners[place] = row.sequence.slot
        starts[shape.decode + len(rows) - decode_rows :] = first
        self._ring.send(3 * span + 3 * row_span, self._staging)

    def _fill_chunk(
        self,
        row: ScheduledRow,
        at: slice,
        ids: np.ndarray,
        positions: np.ndarray,
        slots: np.ndarray,
    ) -> None:
        end = row.start + row.count
        chunk = np.array(row.sequence.token_ids[row.start : end], dtype=np.int64)
        if ((chunk < 0) | (chunk >= self._vocab_size)).any():
            self.unknown_ids.append(row.sequence.request_id)
            chunk = np.zeros_like(chunk)
        ids[at] = chunk
        places = np.arange(row.start, end, dtype=np.int32)
        positions[at] = places
        table = np.array(row.sequence.block_table, dtype=np.int32)
        slots[at] = table[places // self.block_size] * self.block_size + places % self.block_size
