"""Runs steps on CUDA, one step ahead of the host: nothing here waits for the device but `result`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from engine.kernels.sampling import BROKEN, gumbel_sample
from engine.kernels.step_state import StateLayout, prepare_rows
from engine.request import EngineRequest, TokenLogprobs
from engine.runner.batch import PendingStep, SampledToken, ScheduledRow, StepBatch, StepResult
from engine.runner.cuda_buffers import StepBuffers, StepTensors, new_event
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_graphs import DecodeGraphs
from engine.runner.cuda_special import SpecialSampler

_TOKENS: dict[int, SampledToken] = {}
"""One object for each token id met: results of plain rows are made of lookups."""


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Sizes that the buffers are made for."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    sampled_vocab: int
    """Ids from there on are never sampled."""


class ResultRing:
    """Page-locked copies of sampled ids, in rotation."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._buffers = [torch.zeros(rows, dtype=torch.int32, pin_memory=self._cuda) for _ in range(4)]
        self._next = 0

    def copy(self, sampled: torch.Tensor) -> tuple[np.ndarray, torch.cuda.Event | None]:
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        buffer[: len(sampled)].copy_(sampled, non_blocking=True)
        event = new_event() if self._cuda else None
        if event is not None:
            event.record()
        return buffer.numpy()[: len(sampled)], event


class LaunchedStep:
    """A step whose ids are on their way to the host."""

    __slots__ = ("_event", "_ids", "_rows", "_special", "_unknown")

    def __init__(
        self,
        rows: tuple[ScheduledRow, ...],
        ids: np.ndarray,
        event: torch.cuda.Event | None,
        special: SpecialSampler | None,
        unknown: list[str],
    ) -> None:
        """`unknown`: requests whose prompts hold ids that the model does not have."""
        self._rows, self._ids, self._event, self._special, self._unknown = rows, ids, event, special, unknown

    def result(self) -> StepResult:
        if self._event is not None:
            self._event.synchronize()
        ids = self._ids.tolist()
        sampled: list[SampledToken | None] = []
        failed: dict[str, str] = {}
        for row, token in zip(self._rows, ids, strict=True):
            if not row.samples:
                sampled.append(None)
            elif token >= 0:
                known = _TOKENS.get(token)
                if known is None:
                    known = _TOKENS[token] = SampledToken(token)
                sampled.append(known)
            else:
                sampled.append(None)
                failed[row.sequence.request_id] = failure(token)
        prompt_logprobs: dict[str, list[TokenLogprobs]] = {}
        if self._special is not None:
            sampled = self._special.with_logprobs(sampled)
            prompt_logprobs = self._special.prompt_logprobs()
        if self._unknown:
            self._fail_unknown(sampled, prompt_logprobs, failed)
        return StepResult(tuple(sampled), prompt_logprobs, failed)

    def _fail_unknown(
        self,
        sampled: list[SampledToken | None],
        prompt_logprobs: dict[str, list[TokenLogprobs]],
        failed: dict[str, str],
    ) -> None:
        for number, row in enumerate(self._rows):
            name = row.sequence.request_id
            if name in self._unknown:
                sampled[number] = None
                prompt_logprobs.pop(name, None)
                failed[name] = "the prompt holds a token id that the model does not know"


def failure(token: int) -> str:
    """What the sampler's marks mean."""
    if token == BROKEN:
        return "the model's output for this request was not a number"
    return "no token is allowed at this position"


class CudaRunner:
    """Decode steps are one graph each; steps with prompt chunks run kernel by kernel."""

    pipelined = True

    def __init__(self, forward: CudaForward, limits: RunnerLimits, eager: bool = False) -> None:
        cache = forward.kv_cache
        self._forward = forward
        self._limits = limits
        self.num_blocks: int = cache.shape[2]
        self.block_size: int = cache.shape[3]
        self.max_model_len = limits.max_model_len
        self.device = cache.device
        width = -(-limits.max_model_len // self.block_size)
        self._layout = StateLayout(limits.max_num_seqs, limits.max_num_seqs, -(-width // 4) * 4)
        vocab_size = forward.config.vocab_size
        self._buffers = StepBuffers(
            self._layout, limits.max_num_batched_tokens, self.block_size, vocab_size, self.device
        )
        self._sampled = torch.zeros(limits.max_num_seqs, dtype=torch.int32, device=self.device)
        self._results = ResultRing(limits.max_num_seqs, self.device)
        self._eager = eager or self.device.type != "cuda"
        self._sampling_graphs = DecodeGraphs(self._decode_and_sample, self._rehearse, limits.max_num_seqs)
        self._logits_graphs = DecodeGraphs(self._decode, self._decode, limits.max_num_seqs)

    def launch(self, batch: StepBatch) -> PendingStep:
        with torch.inference_mode():
            mirror = self._buffers.mirror
            special = mirror.decode_rows(batch.rows, batch.num_decode_rows)
            if batch.num_decode_rows == len(batch.rows):
                return self._launch_decode(batch, special)
            special |= mirror.prefill_rows(batch.rows, batch.num_decode_rows)
            return self._launch_mixed(batch, special)

    def _launch_decode(self, batch: StepBatch, special: bool) -> LaunchedStep:
        rows = len(batch.rows)
        bucket = rows if self._eager else self._sampling_graphs.bucket(rows)
        self._buffers.mirror.pad_rows(rows, bucket)
        self._buffers.send_updates()
        if not special:
            if self._eager:
                self._decode_and_sample(bucket)
            else:
                self._sampling_graphs.run(bucket)
            return self._collect(batch, None)
        logits = self._decode(bucket) if self._eager else self._logits_graphs.run(bucket)
        tensors = self._decode_tensors(rows)
        sampler = SpecialSampler(batch.rows, logits[:rows], self._limits.sampled_vocab)
        sampler.sample(self.state, self._layout, tensors.slots, self._sampled[:rows])
        return self._collect(batch, sampler)

    def _launch_mixed(self, batch: StepBatch, special: bool) -> LaunchedStep:
        rows = len(batch.rows)
        tensors = self._buffers.send_mixed(batch.rows, batch.num_decode_rows)
        self._prepare(tensors, rows, batch.num_decode_rows)
        hidden = self._forward.hidden(self._forward.embed(tensors.token_ids), tensors.metadata)
        last = tensors.metadata.query_start[1:] - 1
        logits = self._forward.logits(hidden.index_select(0, last))
        if special:
            sampler = SpecialSampler(batch.rows, logits, self._limits.sampled_vocab)
            sampler.read_prompt(hidden, self._forward.logits)
            sampler.sample(self.state, self._layout, tensors.slots, self._sampled[:rows])
            return self._collect(batch, sampler)
        gumbel_sample(
            logits, self.state, self._layout, tensors.slots, self._sampled[:rows], self._limits.sampled_vocab
        )
        return self._collect(batch, None)

    def _collect(self, batch: StepBatch, special: SpecialSampler | None) -> LaunchedStep:
        ids, event = self._results.copy(self._sampled[: len(batch.rows)])
        unknown, self._buffers.unknown_ids = self._buffers.unknown_ids, []
        return LaunchedStep(batch.rows, ids, event, special, unknown)

    @property
    def state(self) -> torch.Tensor:
        return self._buffers.state

    def _decode_tensors(self, rows: int) -> StepTensors:
        return self._buffers.decode_tensors(rows, self.max_model_len)

    def _prepare(self, tensors: StepTensors, rows: int, decode_rows: int) -> None:
        metadata = tensors.metadata
        prepare_rows(
            self.state,
            self._layout,
            rows,
            decode_rows,
            self.block_size,
            tensors.token_ids,
            metadata.positions,
            metadata.slot_mapping,
            metadata.context_len,
            metadata.block_table,
        )

    def _decode(self, rows: int) -> torch.Tensor:
        """One decode step up to the logits [rows, vocab], inputs from the state."""
        tensors = self._decode_tensors(rows)
        self._prepare(tensors, rows, rows)
        residual = self._forward.embed(tensors.token_ids)
        if rows == 1 and self._forward.fuses_one_row:
            return self._forward.one_row_logits(residual, tensors.metadata)
        return self._forward.logits(self._forward.hidden(residual, tensors.metadata))

    def _decode_and_sample(self, rows: int) -> torch.Tensor:
        logits = self._decode(rows)
        slots = self._decode_tensors(rows).slots
        gumbel_sample(logits, self.state, self._layout, slots, self._sampled[:rows], self._limits.sampled_vocab)
        return self._sampled

    def _rehearse(self, rows: int) -> torch.Tensor:
        """All kernels of `_decode_and_sample` once, but nobody's state moves on: sampled for the dummy slot."""
        logits = self._decode(rows)
        nobody = torch.full((rows,), self._layout.slots, dtype=torch.int32, device=self.device)
        gumbel_sample(logits, self.state, self._layout, nobody, self._sampled[:rows], self._limits.sampled_vocab)
        return self._sampled

    def requires_results(self, request: EngineRequest) -> bool:
        return request.needs_history

    def forget(self, slot: int) -> None:
        self._buffers.mirror.forget(slot)

    def warm_up(self) -> None:
        """Capture the decode graphs; every row is padding, so the dummy block alone is written."""
        if not self._eager:
            with torch.inference_mode():
                for size in self._sampling_graphs.sizes:
                    self._sampling_graphs.capture(size)

    def close(self) -> None:
        """Device memory goes with the object."""
