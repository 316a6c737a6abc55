"""What a step does on the device, from its inputs to sampled ids: the calls that graphs are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from engine.kernels.sampling import gumbel_sample
from engine.kernels.step_state import StateLayout, prepare_rows
from engine.runner.cuda_buffers import MixedShape, StepBuffers, StepTensors
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_special import SpecialSampler
from engine.runner.shared_prefix import MIN_ROWS

COMPILED_FIRST = (1, 8, 16, 2, 24, 40, 80, 112, 4, 48, 56)
"""Decode rows from which on other kernels, or other compilations of them, are used; the slowest first."""

Rehearsal = Callable[[], object]
"""Launches kernels once, for nobody's sake."""


class CudaSteps:
    """Reads the step's buffers and the state; writes keys, values, ids, and the state of those who were sampled."""

    def __init__(
        self,
        forward: CudaForward,
        buffers: StepBuffers,
        layout: StateLayout,
        max_model_len: int,
        sampled_vocab: int,
    ) -> None:
        self._forward = forward
        self._buffers = buffers
        self._layout = layout
        self._max_model_len = max_model_len
        self._sampled_vocab = sampled_vocab
        device = buffers.state.device
        self.sampled = torch.zeros(layout.rows, dtype=torch.int32, device=device)
        """[rows] ids of the last step; negative: none could be sampled."""
        head = forward.weights.lm_head
        self._logits = torch.zeros((layout.rows, len(head)), dtype=head.dtype, device=device)
        """Of the last step with special rows or chunks. One place for all graphs: their own would be gigabytes."""
        self._nobody = torch.full((layout.rows,), layout.slots, dtype=torch.int32, device=device)

    def decode(self, rows: int, shared: bool = False) -> torch.Tensor:
        """One decode step up to the logits [rows, vocab], inputs from the state."""
        tensors = self.decode_tensors(rows, shared)
        self._prepare(tensors, rows, rows)
        residual = self._forward.embed(tensors.token_ids)
        if rows == 1 and self._forward.fuses_one_row:
            return self._forward.one_row_logits(residual, tensors.metadata)
        return self._forward.logits(self._forward.hidden(residual, tensors.metadata))

    def decode_logits(self, rows: int, shared: bool = False) -> torch.Tensor:
        """As `decode`; always in the same place."""
        return self._logits[:rows].copy_(self.decode(rows, shared))

    def decode_and_sample(self, rows: int, shared: bool = False) -> torch.Tensor:
        self.sample(self.decode(rows, shared), self.decode_tensors(rows).slots)
        return self.sampled

    def rehearse(self, rows: int, shared: bool = False) -> torch.Tensor:
        """All kernels of `decode_and_sample` once, but nobody's state moves on: sampled for the dummy slot."""
        self.sample(self.decode(rows, shared), self._nobody[:rows])
        return self.sampled

    def mixed(self, tensors: StepTensors) -> tuple[torch.Tensor, torch.Tensor]:
        """A step with chunks: (hidden states [tokens, hidden], logits of each row's last token [rows, vocab])."""
        hidden = self._mixed_hidden(tensors)
        last = tensors.metadata.query_start[1:] - 1
        return hidden, self._forward.logits(hidden.index_select(0, last))

    def _mixed_hidden(self, tensors: StepTensors) -> torch.Tensor:
        metadata = tensors.metadata
        self._prepare(tensors, metadata.context_len.shape[0], metadata.num_decode_rows)
        return self._forward.hidden(self._forward.embed(tensors.token_ids), metadata)

    def mixed_logits(self, shape: MixedShape) -> torch.Tensor:
        """Of a padded step with chunks: [decode rows + chunks, vocab], always in the same place."""
        tensors = self._buffers.mixed_tensors(shape, shape.tokens, self._max_model_len)
        return self._logits[: shape.decode + shape.chunks].copy_(self.mixed(tensors)[1])

    def sample(self, logits: torch.Tensor, slots: torch.Tensor) -> None:
        """Write a token a row into `sampled` and into the state of its slot."""
        sampled = self.sampled[: len(logits)]
        gumbel_sample(logits, self._buffers.state, self._layout, slots, sampled, self._sampled_vocab)

    def decode_tensors(self, rows: int, shared: bool = False) -> StepTensors:
        return self._buffers.decode_tensors(rows, self._max_model_len, shared)

    def rehearsals(self, sizes: list[int], special: SpecialSampler) -> list[Rehearsal]:
        """Calls that together launch every kernel of decode steps of these sizes, but for shared prefixes, those that
        take the compiler longest first. They may run in several threads at once."""

        def rehearse(size: int) -> None:
            with torch.inference_mode():
                self.rehearse(size)

        def rehearse_special() -> None:
            with torch.inference_mode():
                special.rehearse(self._buffers.state, self._logits.shape[1], self._logits.dtype)

        return [rehearse_special, *(functools.partial(rehearse, size) for size in _slowest_first(sizes))]

    def shared_rehearsals(self, sizes: list[int]) -> list[Rehearsal]:
        """Likewise, of what reads a shared prefix once."""

        def rehearse(size: int) -> None:
            with torch.inference_mode():
                self._forward.rehearse_attention(self.decode_tensors(size, shared=True).metadata)

        return [functools.partial(rehearse, size) for size in _slowest_first(sizes) if size >= MIN_ROWS]

    def mixed_rehearsals(self, shapes: list[MixedShape]) -> list[Rehearsal]:
        """Calls, one at a time, that launch our kernels for prompt chunks; none where decode launches them all."""

        def rehearse(shape: MixedShape) -> None:
            with torch.inference_mode():
                hidden = self._mixed_hidden(self._buffers.mixed_tensors(shape, shape.tokens, self._max_model_len))
                self._forward.logits(hidden[: shape.decode + shape.chunks])

        return [functools.partial(rehearse, s) for s in shapes] if self._forward.attention.name == "triton" else []

    def _prepare(self, tensors: StepTensors, rows: int, decode_rows: int) -> None:
        metadata = tensors.metadata
        prepare_rows(
            self._buffers.state,
            self._layout,
            rows,
            decode_rows,
            self._buffers.block_size,
            tensors.token_ids,
            metadata.positions,
            metadata.slot_mapping,
            metadata.context_len,
            metadata.block_table,
        )


def _slowest_first(sizes: list[int]) -> list[int]:
    first = [sizes[-1], *(size for size in COMPILED_FIRST if size in sizes)]
    return [*first, *(size for size in sizes if size not in first)]
