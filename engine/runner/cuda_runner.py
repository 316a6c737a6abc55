"""Runs steps on CUDA, one step ahead of the host: nothing here waits for the device but `result`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch

from engine.kernels.sampling import BROKEN, gumbel_sample
from engine.kernels.step_state import StateLayout, prepare_rows
from engine.request import EngineRequest, Sequence, TokenLogprobs
from engine.runner.batch import PendingStep, SampledToken, ScheduledRow, StepBatch, StepResult
from engine.runner.cuda_buffers import MixedShape, StepBuffers, StepTensors, new_event
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_graphs import StepGraphs, bucket_sizes, smallest
from engine.runner.cuda_plans import GROUPS, PlanTable
from engine.runner.cuda_products import PLAIN, PLANS, Plan
from engine.runner.cuda_special import SpecialSampler
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling.row_grammars import RowGrammars
from engine.sampling_params import SamplingParams

logger = logging.getLogger(__name__)

CHUNK_ROWS = 8
"""Prompt chunks that a graph's step holds."""
CHUNK_TOKENS = [*range(64, 513, 64), 640, 768, 896, 1024]
"""Tokens of all chunks that a graph's step is padded to; larger steps are launched kernel by kernel."""
WARM_UP = EngineRequest("warm-up", (0,), sampling=SamplingParams(temperature=0.0))
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

    __slots__ = ("_event", "_gap", "_ids", "_rows", "_special", "_unknown")

    def __init__(
        self,
        rows: tuple[ScheduledRow, ...],
        ids: np.ndarray,
        event: torch.cuda.Event | None,
        special: SpecialSampler | None,
        unknown: list[str],
        gap: tuple[int, int],
    ) -> None:
        """`unknown`: requests whose prompts hold ids that the model does not have; `gap`: padding among the ids."""
        self._rows, self._ids, self._event, self._special, self._unknown = rows, ids, event, special, unknown
        self._gap = gap

    def result(self) -> StepResult:
        if self._event is not None:
            self._event.synchronize()
        first, last = self._gap
        ids = self._ids.tolist()
        ids = (ids[:first] + ids[last:])[: len(self._rows)]
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
            failed.update(self._special.failed)
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
    """Steps are one graph each, but for large prompt chunks and special rows, which run kernel by kernel."""

    pipelined = True

    def __init__(
        self,
        forward: CudaForward,
        limits: RunnerLimits,
        compiler: DeferredCompiler,
        plans: PlanTable,
        eager: bool = False,
    ) -> None:
        self._compiler = compiler
        self._grammars = RowGrammars(compiler)
        self.plans = plans
        cache = forward.kv_cache
        self._forward = forward
        self._limits = limits
        self.num_blocks: int = cache.shape[2]
        self.block_size: int = cache.shape[3]
        self.max_model_len = limits.max_model_len
        self.device = cache.device
        width = -(-limits.max_model_len // self.block_size)
        rows = limits.max_num_seqs + CHUNK_ROWS
        self._layout = StateLayout(limits.max_num_seqs, rows, -(-width // 4) * 4)
        most_tokens = max(limits.max_num_batched_tokens, limits.max_num_seqs + CHUNK_TOKENS[-1])
        vocab_size = forward.config.vocab_size
        self._buffers = StepBuffers(self._layout, most_tokens, self.block_size, vocab_size, self.device)
        self._sampled = torch.zeros(rows, dtype=torch.int32, device=self.device)
        self._nobody = torch.full((rows,), self._layout.slots, dtype=torch.int32, device=self.device)
        self._results = ResultRing(rows, self.device)
        self._eager = eager or self.device.type != "cuda"
        self._chunk_graphs = not self._eager
        self._sizes = bucket_sizes(limits.max_num_seqs)
        most = limits.max_num_seqs
        self._mixed_sizes = [0, *(size for size in (8, *range(32, most, 32)) if size < most), most]
        self._sampling_graphs = StepGraphs(self._decode_and_sample, self._rehearse)
        self._logits_graphs = StepGraphs(self._decode, self._decode)
        self._mixed_graphs = StepGraphs(self._mixed_and_sample, self._rehearse_mixed)

    def launch(self, batch: StepBatch) -> PendingStep:
        with torch.inference_mode():
            mirror = self._buffers.mirror
            special = mirror.decode_rows(batch.rows, batch.num_decode_rows)
            if batch.num_decode_rows == len(batch.rows):
                return self._launch_decode(batch, special)
            special |= mirror.meet(batch.rows, batch.num_decode_rows)
            return self._launch_mixed(batch, special)

    def _launch_decode(self, batch: StepBatch, special: bool) -> LaunchedStep:
        rows = len(batch.rows)
        bucket = rows if self._eager else smallest(self._sizes, rows)
        self._buffers.mirror.pad_rows(rows, bucket)
        self._buffers.send_updates()
        if not special:
            if self._eager:
                self._decode_and_sample(bucket)
            else:
                self._sampling_graphs.run(bucket)
            return self._collect(batch, rows, None)
        logits = self._decode(bucket) if self._eager else self._logits_graphs.run(bucket)
        tensors = self._decode_tensors(rows)
        sampler = SpecialSampler(batch.rows, logits[:rows], self._limits.sampled_vocab, self._grammars)
        sampler.sample(self.state, self._layout, tensors.slots, self._sampled[:rows])
        return self._collect(batch, rows, sampler)

    def _mixed_shape(self, batch: StepBatch, special: bool) -> MixedShape | None:
        """The padded shape of a step whose graph is worth it; large steps hide the host's launches anyway."""
        chunks = len(batch.rows) - batch.num_decode_rows
        tokens = batch.num_tokens - batch.num_decode_rows
        if not self._chunk_graphs or special or chunks > CHUNK_ROWS or tokens > CHUNK_TOKENS[-1]:
            return None
        decode = smallest(self._mixed_sizes, batch.num_decode_rows)
        return MixedShape(decode, CHUNK_ROWS, smallest(CHUNK_TOKENS, tokens))

    def _launch_mixed(self, batch: StepBatch, special: bool) -> LaunchedStep:
        rows, decoding = len(batch.rows), batch.num_decode_rows
        padded = self._mixed_shape(batch, special)
        shape = padded or MixedShape(decoding, rows - decoding, batch.num_tokens - decoding)
        mirror = self._buffers.mirror
        mirror.prefill_rows(batch.rows, decoding, shape.decode)
        mirror.pad_rows(decoding, shape.decode)
        self._buffers.send_mixed(batch.rows, decoding, shape)
        if padded:
            self._mixed_graphs.run(padded)
            return self._collect(batch, shape.decode + shape.chunks, None, (decoding, shape.decode))
        longest = max(row.count for row in batch.rows)
        tensors = self._buffers.mixed_tensors(shape, longest, self.max_model_len)
        hidden, logits = self._mixed(tensors)
        sampled = self._sampled[:rows]
        if special:
            sampler = SpecialSampler(batch.rows, logits, self._limits.sampled_vocab, self._grammars)
            sampler.read_prompt(hidden, self._forward.logits)
            sampler.sample(self.state, self._layout, tensors.slots, sampled)
            return self._collect(batch, rows, sampler)
        gumbel_sample(logits, self.state, self._layout, tensors.slots, sampled, self._limits.sampled_vocab)
        return self._collect(batch, rows, None)

    def _collect(
        self, batch: StepBatch, rows: int, special: SpecialSampler | None, gap: tuple[int, int] = (0, 0)
    ) -> LaunchedStep:
        """Start copying the first `rows` ids to the host; those of the rows in `gap` belong to nobody."""
        ids, event = self._results.copy(self._sampled[:rows])
        unknown, self._buffers.unknown_ids = self._buffers.unknown_ids, []
        return LaunchedStep(batch.rows, ids, event, special, unknown, gap)

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
        self._forward.use(self.plans.of(rows))
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
        self._sample_for_nobody(self._decode(rows))
        return self._sampled

    def _mixed(self, tensors: StepTensors) -> tuple[torch.Tensor, torch.Tensor]:
        """A step with chunks: (hidden states [tokens, hidden], logits of each row's last token [rows, vocab])."""
        self._forward.use(PLAIN)
        metadata = tensors.metadata
        self._prepare(tensors, metadata.context_len.shape[0], metadata.num_decode_rows)
        hidden = self._forward.hidden(self._forward.embed(tensors.token_ids), metadata)
        last = metadata.query_start[1:] - 1
        return hidden, self._forward.logits(hidden.index_select(0, last))

    def _mixed_and_sample(self, shape: MixedShape) -> torch.Tensor:
        tensors = self._buffers.mixed_tensors(shape, shape.tokens, self.max_model_len)
        _, logits = self._mixed(tensors)
        sampled = self._sampled[: len(logits)]
        gumbel_sample(logits, self.state, self._layout, tensors.slots, sampled, self._limits.sampled_vocab)
        return self._sampled

    def _rehearse_mixed(self, shape: MixedShape) -> torch.Tensor:
        _, logits = self._mixed(self._buffers.mixed_tensors(shape, shape.tokens, self.max_model_len))
        self._sample_for_nobody(logits)
        return self._sampled

    def _sample_for_nobody(self, logits: torch.Tensor) -> None:
        rows = len(logits)
        nobody, sampled = self._nobody[:rows], self._sampled[:rows]
        gumbel_sample(logits, self.state, self._layout, nobody, sampled, self._limits.sampled_vocab)

    def requires_results(self, request: EngineRequest) -> bool:
        return request.needs_history

    def forget(self, slot: int) -> None:
        self._buffers.mirror.forget(slot)
        self._grammars.forget(slot)

    def warm_up(self) -> None:
        """Compile kernels and capture graphs. Every row is padding, so the dummy block alone is written."""
        if self._eager:
            return
        with torch.inference_mode():
            for size in self._sizes:
                self._sampling_graphs.capture(size)
            try:
                for tokens in CHUNK_TOKENS:
                    self._pretend_chunk(tokens, 0)
                for decoding in self._mixed_sizes[1:]:
                    self._pretend_chunk(CHUNK_TOKENS[0], decoding)
            except RuntimeError:
                logger.exception("steps with prompt chunks cannot be captured here: they run kernel by kernel")
                self._chunk_graphs = False
            for tokens in (2048, 4096, 8192):
                if tokens <= self._limits.max_num_batched_tokens:
                    self._pretend_chunk(tokens, 0)
        torch.cuda.synchronize()

    def _pretend_chunk(self, tokens: int, decoding: int) -> None:
        """One step with a chunk of the dummy slot, and padding in place of decode rows."""
        dummy = self._layout.slots
        sequence = Sequence(WARM_UP, [0] * tokens, tokens, slot=dummy)
        sequence.block_table = [0] * min(-(-tokens // self.block_size), self._layout.table_width)
        tokens = min(tokens, self.max_model_len)
        row = ScheduledRow(sequence, 0, tokens, False)
        mirror = self._buffers.mirror
        batch = StepBatch((row,), 0)
        mirror.meet(batch.rows, 0)
        shape = self._mixed_shape(batch, False)
        if shape is None:
            self._launch_mixed(batch, False)
        else:
            shape = shape._replace(decode=decoding)
            mirror.prefill_rows(batch.rows, 0, decoding)
            mirror.pad_rows(0, decoding)
            self._buffers.send_mixed(batch.rows, 0, shape)
            self._mixed_graphs.run(shape)
        mirror.forget(dummy)

    def measure_plans(self, repeats: int = 5) -> dict[int, dict[Plan, float]]:
        """Time whole decode steps under every plan, keep the fastest of each group; milliseconds of all."""
        found: dict[int, dict[Plan, float]] = {}
        with torch.inference_mode():
            for rows in (size for size in GROUPS if size in self._sizes):
                found[rows] = {}
                for plan in PLANS:
                    self.plans.plans[rows] = plan
                    self._sampling_graphs.capture(rows)
                    found[rows][plan] = self._time_graph(rows, repeats)
                self.plans.plans[rows] = min(found[rows], key=lambda plan: found[rows][plan])
        return found

    def _time_graph(self, rows: int, repeats: int) -> float:
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            self._sampling_graphs.run(rows)
            end.record()
            torch.cuda.synchronize()
            times.append(float(begin.elapsed_time(end)))
        return sorted(times)[repeats // 2]

    def close(self) -> None:
        """Device memory goes with the object."""
        self._compiler.cancel()
