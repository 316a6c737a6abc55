"""Builds the CUDA runner: attention, weights, products, and a KV cache of what memory is left."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from engine.attention.base import AttentionBackend, AttentionMetadata
from engine.attention.registry import ProbeContext, choose
from engine.config import CUDA_BATCHED_TOKENS, EngineConfig
from engine.errors import ConfigurationError
from engine.kernels.stream_config import gluon_is_known
from engine.memory.kv_layout import GIB, KvLayout, size_in_blocks
from engine.models.config import ModelConfig
from engine.models.rope import rope_tables
from engine.models.weights import load_weights
from engine.process.messages import EngineInfo
from engine.runner.batch import Report
from engine.runner.compile_ahead import AheadCompilation
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_products import Products
from engine.runner.cuda_runner import CudaRunner, RunnerLimits
from engine.runner.model_facts import describe, model_dtype, sampled_vocab
from engine.runner.product_table import product_table
from engine.sampling.deferred_compiler import DeferredCompiler

logger = logging.getLogger(__name__)

GRAPH_MEMORY_BYTES = 1 * GIB
"""Kept free for the graphs' own pool and what libraries allocate at their first call."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What decides which kernels steps are made of."""

    dtype: torch.dtype
    attention: AttentionBackend
    reason: str
    """Why this attention."""
    layout: KvLayout
    limits: RunnerLimits
    products: Products


def plan_steps(
    config: EngineConfig, model: ModelConfig, device: torch.device, capability: tuple[int, int]
) -> StepPlan:
    """For a GPU of that compute capability, which need not be here. Raises ConfigurationError."""
    dtype = model_dtype(config, model)
    context = ProbeContext(
        device,
        dtype,
        model.num_heads,
        model.num_kv_heads,
        model.head_dim,
        config.block_size,
        any(model.layer_windows),
        capability,
    )
    attention, reason = choose(config.attention_backend, context)
    block_size = config.block_size or attention.block_sizes[0]
    layout = KvLayout(model.num_layers, model.num_kv_heads, model.head_dim, block_size, dtype)
    products = choose_products(model, dtype, capability)
    return StepPlan(dtype, attention, reason, layout, _limits(config, model), products)


def build(
    config: EngineConfig, model: ModelConfig, report: Report, ahead: AheadCompilation | None = None
) -> tuple[CudaRunner, EngineInfo]:
    """`ahead` is compiling kernels meanwhile. What the start needs is waited for; the runner looks after the rest.

    Raises ModelLoadError for the checkpoint's faults, ConfigurationError for settings that do not fit the GPU.
    """
    device = torch.device("cuda", torch.device(config.device).index or 0)
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    if config.long_context_extrapolation:
        raise ConfigurationError("long_context_extrapolation is not supported on CUDA")
    plan = plan_steps(config, model, device, torch.cuda.get_device_capability(device))
    layout, limits = plan.layout, plan.limits

    def progress(done: int, total: int) -> None:
        report("weights", done / total, f"{done / 1e9:.2f} of {total / 1e9:.2f} GB")

    try:
        weights = load_weights(
            config.model_path, model, device, plan.dtype, config.load_format, progress, config.seed
        )
        report("cache", 0.0, "")
        rotary = rope_tables(model, limits.max_model_len, device)
        small = layout.allocate(2, device)
        forward = CudaForward(model, weights, plan.attention, small, rotary, plan.products)
        num_blocks = _count_blocks(config, forward, layout, limits)
        forward.kv_cache = layout.allocate(num_blocks, device)
        if ahead is not None:
            report("kernels", 0.0, "")
            ahead.wait()
        runner = CudaRunner(forward, limits, DeferredCompiler(config.model_path), config.enforce_eager, ahead)
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigurationError(f"the model does not fit into the GPU's memory: {error}") from error
    return runner, describe(
        config,
        model,
        layout,
        num_blocks=num_blocks,
        max_model_len=limits.max_model_len,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        device=torch.cuda.get_device_name(),
        attention=(plan.attention.name, plan.reason),
    )


def choose_products(model: ModelConfig, dtype: torch.dtype, capability: tuple[int, int]) -> Products:
    """Our own kernels for few rows of 16-bit weights, overlapping from Hopper on; cuBLAS for the rest."""
    if dtype == torch.float32:
        return Products()
    streams = capability[0] == 9 and gluon_is_known()
    if capability[0] == 9 and not streams:
        logger.info("products are not streamed: Triton's version is not one of those it was tested with")
    return Products(product_table(model, streams), capability >= (9, 0))


def _limits(config: EngineConfig, model: ModelConfig) -> RunnerLimits:
    return RunnerLimits(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or CUDA_BATCHED_TOKENS,
        max_model_len=config.max_model_len or model.max_position,
        sampled_vocab=sampled_vocab(config, model),
    )


def _count_blocks(config: EngineConfig, forward: CudaForward, layout: KvLayout, limits: RunnerLimits) -> int:
    """Blocks that fit into the configured share of the memory beside the largest step, which is run to measure it."""
    device = forward.kv_cache.device
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.inference_mode():
        _largest_step(forward, limits, layout.block_size)
    torch.cuda.synchronize(device)
    activations = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    reserved = (1 - config.gpu_memory_utilization) * total
    sampling = limits.sampling_bytes(forward.config.vocab_size, forward.kv_cache.itemsize)
    available = int(free - reserved - activations - sampling - GRAPH_MEMORY_BYTES)
    logger.info(
        "memory: %.1f GiB free of %.1f, %.2f GiB for activations, %.1f GiB for the KV cache",
        free / GIB,
        total / GIB,
        activations / GIB,
        max(available, 0) / GIB,
    )
    return size_in_blocks(layout, max(available, 0), limits.max_num_seqs, limits.max_model_len, config.num_blocks)


def _largest_step(forward: CudaForward, limits: RunnerLimits, block_size: int) -> None:
    """One prompt chunk of the whole budget, and logits for as many rows as there may be; block 0 takes the keys."""
    tokens, device = limits.max_num_batched_tokens, forward.kv_cache.device
    length = min(tokens, limits.max_model_len)
    rows = -(-tokens // length)
    counts = [min(length, tokens - row * length) for row in range(rows)]
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32, device=device)
    positions = torch.cat([torch.arange(count, dtype=torch.int32) for count in counts]).to(device)
    metadata = AttentionMetadata(
        query_start=starts,
        context_len=torch.tensor(counts, dtype=torch.int32, device=device),
        block_table=torch.zeros((rows, -(-length // block_size)), dtype=torch.int32, device=device),
        slot_mapping=positions % block_size,
        positions=positions,
        num_decode_rows=0,
        max_query_len=length,
        max_context_len=length,
        block_size=block_size,
    )
    hidden = forward.hidden(forward.embed(torch.zeros(tokens, dtype=torch.int32, device=device)), metadata)
    logits = forward.logits(hidden[: limits.max_num_seqs])
    logits.float()
