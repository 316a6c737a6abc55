"""Runs steps on CUDA, one step ahead of the host: nothing here waits for the device but `result`."""

from __future__ import annotations

import functools
import logging
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from engine.kernels.step_state import StateLayout
from engine.models.config import ModelConfig
from engine.request import EngineRequest, Sequence
from engine.runner.batch import PendingStep, ScheduledRow, StepBatch, StepSizes
from engine.runner.compile_ahead import AheadCompilation
from engine.runner.cuda_buffers import MixedShape, StepBuffers
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_graphs import StepGraphs, bucket_sizes, smallest
from engine.runner.cuda_results import LaunchedStep, ResultRing, WaitingStep
from engine.runner.cuda_special import SpecialResult, SpecialSampler
from engine.runner.cuda_steps import CudaSteps, Rehearsal
from engine.runner.shared_prefix import MIN_ROWS, SharedPrefix
from engine.runner.special_plan import SpecialPlan
from engine.runner.transfers import to_device
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling_params import SamplingParams

logger = logging.getLogger(__name__)

CHUNK_ROWS = 8
"""Prompt chunks that a graph's step holds."""
CHUNK_TOKENS = [64, 128, 192, 256, 384, 512, 768, 1024]
"""Tokens of all chunks that a graph's step is padded to."""
BUSY_FLOP = 13e12
"""A step of so much arithmetic takes about 20 ms, and larger ones are hardly more efficient."""
RIDGE_TOKENS = 192
"""Where computing a 16-bit product takes as long as reading its weights: 790 TFLOP/s over 4.28 TB/s on an H200."""
LAUNCH_FLOP = 7e12
"""A step of so much takes twice as long as the host needs to launch it kernel by kernel: it needs no graph."""
COMPILERS = 12
WARM_UP = EngineRequest("warm-up", (0,), sampling=SamplingParams(temperature=0.0))


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Sizes that the buffers are made for."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    sampled_vocab: int
    """Ids from there on are never sampled."""

    def sampling_bytes(self, vocab_size: int, itemsize: int) -> int:
        """Of the sampler's buffers that are there from the start: logits of a step, and counts of tokens."""
        return (self.max_num_seqs + CHUNK_ROWS) * vocab_size * itemsize + (self.max_num_seqs + 1) * vocab_size * 4


def step_sizes(model: ModelConfig) -> StepSizes:
    """Busy is a step of BUSY_FLOP, rounded up to 64."""
    attention = model.hidden_size * (model.qkv_width + model.num_heads * model.head_dim)
    weights = model.num_layers * (attention + 3 * model.hidden_size * model.intermediate_size)
    return StepSizes(RIDGE_TOKENS, -(-int(BUSY_FLOP / (2 * weights)) // 64) * 64)


def _decode_graphs(steps: CudaSteps, shared: bool) -> tuple[StepGraphs[int], StepGraphs[int]]:
    """(decode and sample, decode up to the logits), by rows."""
    sample, rehearse, logits = (
        functools.partial(call, shared=shared)
        for call in (steps.decode_and_sample, steps.rehearse, steps.decode_logits)
    )
    return StepGraphs(sample, rehearse), StepGraphs(logits, logits)


Later = tuple[StepGraphs[Any], Any]
"""Graphs, and a shape that they should be captured for when there is time."""


class CudaRunner:
    """Steps are one graph each, but for large prompt chunks, which run kernel by kernel, as does the sampling of
    special rows and of steps with chunks."""

    pipelined = True

    def __init__(
        self,
        forward: CudaForward,
        limits: RunnerLimits,
        compiler: DeferredCompiler,
        eager: bool = False,
        ahead: AheadCompilation | None = None,
    ) -> None:
        """`ahead` is still compiling the kernels for shared prefixes."""
        self._compiler = compiler
        self._ahead = ahead
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
        limit = limits.sampled_vocab
        self._steps = CudaSteps(forward, self._buffers, self._layout, limits.max_model_len, limit)
        self._special = SpecialSampler(self._layout, limit, compiler, self.device)
        self._results = ResultRing(rows, self.device)
        self._eager = eager or self.device.type != "cuda"
        self._sizes = bucket_sizes(limits.max_num_seqs)
        self.step_sizes = step_sizes(forward.config)
        longest = max(self.step_sizes.busy * LAUNCH_FLOP / BUSY_FLOP, CHUNK_TOKENS[0])
        self._chunk_sizes = [size for size in CHUNK_TOKENS if size <= longest]
        most = limits.max_num_seqs
        self._mixed_sizes = [0, *(size for size in (8, 32, 64, 128, 256, 512) if size < most), most]
        self._sampling_graphs, self._logits_graphs = _decode_graphs(self._steps, shared=False)
        self._shared_sampling_graphs, self._shared_logits_graphs = _decode_graphs(self._steps, shared=True)
        self._mixed_graphs = StepGraphs(self._steps.mixed_logits, self._steps.mixed_logits)
        reads_once = forward.attention.reads_shared_prefix and not any(forward.config.layer_windows)
        self._shared_prefix = SharedPrefix(self._buffers.mirror, self.block_size) if reads_once else None
        self._later: deque[Later] = deque()
        self._missed: set[Later] = set()
        if not self._eager:
            shapes = [MixedShape(rows, CHUNK_ROWS, size) for rows in self._mixed_sizes for size in self._chunk_sizes]
            self._later.extend((self._mixed_graphs, shape) for shape in shapes)

    def launch(self, batch: StepBatch) -> PendingStep:
        with torch.inference_mode():
            mirror = self._buffers.mirror
            special = mirror.decode_rows(batch.rows, batch.num_decode_rows)
            shared = self._shares(batch)
            if batch.num_decode_rows == len(batch.rows):
                return self._launch_decode(batch, special, shared)
            special |= mirror.meet(batch.rows, batch.num_decode_rows)
            return self._launch_mixed(batch, special, shared)

    def _shares(self, batch: StepBatch) -> bool:
        """Whether the decode rows have a common prefix that attention reads once; the device is told its length."""
        if self._shared_prefix is None or self._is_compiling():
            return False
        tokens = self._shared_prefix.tokens(batch.rows, batch.num_decode_rows)
        if tokens:
            self._buffers.mirror.share(tokens)
        return tokens > 0

    def _launch_decode(self, batch: StepBatch, special: bool, shared: bool) -> PendingStep:
        rows = len(batch.rows)
        bucket = rows if self._eager else smallest(self._sizes, rows)
        self._buffers.mirror.pad_rows(rows, bucket)
        self._buffers.send_updates()
        if not special:
            self._replay_or_run(self._sampling_graphs, self._shared_sampling_graphs, bucket, shared)
            return self._collect(batch, rows, None)
        logits = self._replay_or_run(self._logits_graphs, self._shared_logits_graphs, bucket, shared)
        plan = self._special.plan(batch.rows, logits, same_rows=(self._buffers.mirror.changes, rows))
        return self._sample_special(batch, plan, logits[:rows], self._steps.decode_tensors(rows).slots)

    def _replay_or_run(
        self, plain: StepGraphs[int], sharing: StepGraphs[int], size: int, shared: bool
    ) -> torch.Tensor:
        """The step by its graph, while one for a shared prefix is missing by the plain one; without any kernel by
        kernel. Capturing what is missing waits for an idle moment."""
        for graphs in (sharing, plain) if shared else (plain,):
            if graphs.ready(size):
                return graphs.run(size)
            self._capture_later(graphs, size)
        return (sharing if shared else plain).step(size)

    def _capture_later(self, graphs: StepGraphs[Any], shape: Any) -> None:
        if not self._eager and (graphs, shape) not in self._missed:
            self._missed.add((graphs, shape))
            self._later.appendleft((graphs, shape))  # before what is only planned

    def _mixed_shape(self, batch: StepBatch, special: bool, shared: bool) -> MixedShape | None:
        """The padded shape of a step that has a graph; large steps hide the host's launches without."""
        chunks = len(batch.rows) - batch.num_decode_rows
        tokens = batch.num_tokens - batch.num_decode_rows
        if self._eager or chunks > CHUNK_ROWS or tokens > self._chunk_sizes[-1]:
            return None
        if special and any(row.sequence.request.sampling.prompt_logprobs is not None for row in batch.rows):
            return None
        decode = smallest(self._mixed_sizes, batch.num_decode_rows)
        shape = MixedShape(decode, CHUNK_ROWS, smallest(self._chunk_sizes, tokens), shared)
        if shared and not self._mixed_graphs.ready(shape):
            self._capture_later(self._mixed_graphs, shape)
            shape = shape._replace(shared=False)
        return shape if self._mixed_graphs.ready(shape) else None

    def _launch_mixed(self, batch: StepBatch, special: bool, shared: bool = False) -> PendingStep:
        rows, decoding = len(batch.rows), batch.num_decode_rows
        padded = self._mixed_shape(batch, special, shared)
        shape = padded or MixedShape(decoding, rows - decoding, batch.num_tokens - decoding, shared)
        mirror = self._buffers.mirror
        mirror.prefill_rows(batch.rows, decoding, shape.decode)
        mirror.pad_rows(decoding, shape.decode)
        self._buffers.send_mixed(batch.rows, decoding, shape)
        gap = (decoding, shape.decode)
        if padded:
            hidden, logits = None, self._mixed_graphs.run(padded)
            slots = self._buffers.mixed_slots(padded)
        else:
            longest = max(row.count for row in batch.rows)
            tensors = self._buffers.mixed_tensors(shape, longest, self.max_model_len)
            hidden, logits = self._steps.mixed(tensors)
            slots = tensors.slots
        if not special:
            self._steps.sample(logits, slots)
            return self._collect(batch, shape.decode + shape.chunks, None, gap)
        logits, slots = self._of_rows(rows, gap, logits, slots)
        return self._sample_special(batch, self._special.plan(batch.rows, logits), logits, slots, hidden)

    def _sample_special(
        self,
        batch: StepBatch,
        plan: SpecialPlan,
        logits: torch.Tensor,
        slots: torch.Tensor,
        hidden: torch.Tensor | None = None,
    ) -> PendingStep:
        """Now, or as soon as the host knows what the step before has sampled: the device computes this one's logits
        meanwhile. `hidden` [tokens, hidden]: of a step whose prompts' logprobs may be wanted."""
        rows = batch.rows

        def sample() -> LaunchedStep:
            sampled = self._steps.sampled[: len(rows)]
            result = self._special.sample(plan, rows, logits, self.state, slots, sampled)
            if hidden is not None:
                result.read_prompt(rows, hidden, self._forward.logits)
            return self._collect(batch, len(rows), result)

        waits = any(r.samples and r.sequence.num_in_flight and r.sequence.request.needs_history for r in rows)
        return WaitingStep(sample) if waits else sample()

    def _of_rows(self, rows: int, gap: tuple[int, int], *padded: torch.Tensor) -> list[torch.Tensor]:
        """Each [places, ...] -> [rows, ...]: without the places between the gap's ends, which belong to nobody."""
        first, last = gap
        if first == last:
            return [tensor[:rows] for tensor in padded]
        places = to_device([*range(first), *range(last, last + rows - first)], torch.int32, self.device)
        return [tensor.index_select(0, places) for tensor in padded]

    def _collect(
        self, batch: StepBatch, rows: int, special: SpecialResult | None, gap: tuple[int, int] = (0, 0)
    ) -> LaunchedStep:
        """Start copying the first `rows` ids to the host; those of the rows in `gap` belong to nobody."""
        ids, event = self._results.copy(self._steps.sampled[:rows])
        unknown, self._buffers.unknown_ids = self._buffers.unknown_ids, []
        return LaunchedStep(batch.rows, ids, event, special, unknown, gap)

    @property
    def state(self) -> torch.Tensor:
        return self._buffers.state

    def forget(self, slot: int) -> None:
        self._buffers.mirror.forget(slot)
        self._special.forget(slot)

    def settle(self) -> None:
        """What the first grammar will need."""
        self._compiler.warm()

    def warm_up(self) -> None:
        """Compile kernels and capture steps. Every row is padding, so the dummy block alone is written."""
        if self._eager:
            return
        with torch.inference_mode():
            self._compile()
            for size in self._sizes:
                self._sampling_graphs.capture(size)
                self._logits_graphs.capture(size)
            for tokens in (CHUNK_TOKENS[0], 2048, 8192):
                if tokens <= self._limits.max_num_batched_tokens:
                    self._pretend_chunk(tokens)
        while self._capture_next():
            pass
        torch.cuda.synchronize()
        if self._shared_prefix:  # in idle moments: until then such steps run without reading the prefix only once
            sizes = [size for size in self._sizes if size >= MIN_ROWS]
            self._later.extend((self._shared_sampling_graphs, size) for size in sizes)
            self._later.extend((self._shared_logits_graphs, size) for size in sizes)

    def rehearsals(self) -> list[Rehearsal]:
        """Calls that together launch every kernel of decode steps and of sampling; they may run side by side."""
        return self._steps.rehearsals(self._sizes, self._special)

    def later_rehearsals(self) -> list[Rehearsal]:
        """Of the kernels for shared prefixes, which service can do without."""
        return self._steps.shared_rehearsals(self._sizes) if self._shared_prefix else []

    def mixed_rehearsals(self) -> list[Rehearsal]:
        """Calls, one at a time, that launch what is missing for prompt chunks."""
        ends = (self._chunk_sizes[0], self._chunk_sizes[-1])
        sizes = self._mixed_sizes[:3]
        return self._steps.mixed_rehearsals(
            [MixedShape(rows, CHUNK_ROWS, tokens) for rows in sizes for tokens in ends]
        )

    def _compile(self) -> None:
        """Run a step of each size in a thread of its own: compilers run side by side."""

        def on_device(rehearse: Rehearsal) -> None:
            with torch.cuda.device(self.device):
                rehearse()

        later = [] if self._is_compiling() else self.later_rehearsals()
        with ThreadPoolExecutor(max_workers=COMPILERS) as pool:
            list(pool.map(on_device, [*later, *self.rehearsals()]))

    def _is_compiling(self) -> bool:
        return self._ahead is not None and not self._ahead.finished()

    def prepare(self, request: EngineRequest) -> Future[Any] | None:
        """Its grammar, if it has one."""
        return self._compiler.begin(request.grammar) if request.grammar else None

    def prepare_more(self) -> bool:
        """Capture one graph that is planned, or that service has missed, once all kernels are compiled."""
        return self._is_compiling() or self._capture_next()

    def _capture_next(self) -> bool:
        while self._later:
            graphs, shape = self._later.popleft()
            if not graphs.ready(shape):
                self._capture_idle(graphs, shape)
                return True
        return False

    def _capture_idle(self, graphs: StepGraphs[Any], shape: Any) -> None:
        """Every row is padding meanwhile: rows of finished requests would write to blocks of others."""
        with torch.inference_mode():
            rows = self._layout.rows
            self._buffers.mirror.pad_rows(0, rows)
            self._buffers.send_updates()
            try:
                if isinstance(shape, MixedShape):
                    self._send_padding(shape)
                graphs.capture(shape)
            except RuntimeError:
                logger.exception("a step of %s cannot be captured: such steps run kernel by kernel", shape)

    def _send_padding(self, shape: MixedShape) -> None:
        """Inputs of a step with one chunk of the dummy slot, and padding in place of decode rows."""
        sequence = self._dummy(shape.tokens)
        row = ScheduledRow(sequence, 0, min(shape.tokens, self.max_model_len), False)
        mirror = self._buffers.mirror
        mirror.meet((row,), 0)
        mirror.prefill_rows((row,), 0, shape.decode)
        mirror.pad_rows(0, shape.decode)
        self._buffers.send_mixed((row,), 0, shape)
        mirror.forget(self._layout.slots)

    def _dummy(self, tokens: int) -> Sequence:
        """A prompt of zeros in the dummy slot and block."""
        sequence = Sequence(WARM_UP, [0] * tokens, tokens, slot=self._layout.slots)
        sequence.block_table = [0] * min(-(-tokens // self.block_size), self._layout.table_width)
        return sequence

    def _pretend_chunk(self, tokens: int) -> None:
        """One step with a chunk of the dummy slot, kernel by kernel."""
        row = ScheduledRow(self._dummy(tokens), 0, min(tokens, self.max_model_len), False)
        self._buffers.mirror.meet((row,), 0)
        self._launch_mixed(StepBatch((row,), 0), False)
        self._buffers.mirror.forget(self._layout.slots)

    def close(self) -> None:
        """Device memory goes with the object."""
        self._compiler.close()
        if self._ahead is not None:
            self._ahead.stop()
