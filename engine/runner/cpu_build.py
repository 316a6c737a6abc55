"""Builds the CPU runner: dtype, threads, weights, kernels, the size of the KV cache."""

from __future__ import annotations

import logging

import torch

from engine.attention.registry import ProbeContext, choose
from engine.config import CPU_BATCHED_TOKENS, EngineConfig
from engine.errors import ConfigurationError
from engine.memory.host import available_bytes
from engine.memory.kv_layout import GIB, KvLayout, size_in_blocks
from engine.models.config import ModelConfig
from engine.models.decoder import Decoder, Model
from engine.models.layers import TorchOps
from engine.models.rope import Rotary
from engine.models.weights import load_weights, weights_nbytes
from engine.native.build import build_in_background
from engine.native.decoder import NativeDecoder, build_decoder
from engine.native.sampler import NativeChooser
from engine.process.messages import EngineInfo
from engine.runner.batch import Report
from engine.runner.cpu_runner import CpuRunner
from engine.runner.hardware import physical_cores
from engine.runner.model_facts import describe, model_dtype, sampled_vocab
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling.sampler import Sampler

logger = logging.getLogger(__name__)

NATIVE_BLOCK_SIZE = 32
"""The native kernels read any page in place, so small blocks cost nothing and leave little unused."""
TORCH_BLOCK_SIZE = 256
"""Plain torch gathers a row's pages where there is more than one: large blocks keep most rows within one."""


def build(config: EngineConfig, model: ModelConfig, report: Report) -> tuple[CpuRunner, EngineInfo]:
    """`config.max_model_len` is checked already. Raises ModelLoadError and ConfigurationError."""
    threads = config.num_threads or physical_cores()
    torch.set_num_threads(threads)
    dtype = choose_dtype(config, model)
    decoder, dtype, attention, reason = load_decoder(config, model, dtype, threads, report)
    native = attention == "native"
    if native:
        torch.set_num_threads(1)  # torch's idle workers spin, and would take the cores from the kernels' own
    report("cache", 0.0, "")
    layout = KvLayout(
        model.num_layers,
        model.num_kv_heads,
        model.head_dim,
        config.block_size or (NATIVE_BLOCK_SIZE if native else TORCH_BLOCK_SIZE),
        dtype,
    )
    max_model_len, num_blocks = size_cache(config, model, layout)
    rotary = Rotary(model, max_model_len, "cpu", config.long_context_extrapolation)
    cache = layout.allocate(num_blocks, "cpu")
    chooser = NativeChooser(decoder.native) if isinstance(decoder, NativeDecoder) else None
    sampler = Sampler(sampled_vocab(config, model), chooser=chooser)
    compiler = DeferredCompiler(config.model_path)
    runner = CpuRunner(decoder, rotary, sampler, cache, max_model_len, model.vocab_size, compiler)
    info = describe(
        config,
        model,
        layout,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        max_num_batched_tokens=config.max_num_batched_tokens or CPU_BATCHED_TOKENS,
        device=f"cpu ({threads} {'threads' if threads > 1 else 'thread'}, {reason})",
        attention=(attention, reason),
    )
    return runner, info


def choose_dtype(config: EngineConfig, model: ModelConfig) -> torch.dtype:
    """The asked dtype, or the checkpoint's own; float16 checkpoints run as float32, which no CPU is slower at."""
    dtype = model_dtype(config, model)
    if config.dtype == "auto" and dtype is torch.float16:
        logger.info("the checkpoint is float16, which CPUs compute slowly: running it as float32")
        return torch.float32
    return dtype


def load_decoder(
    config: EngineConfig,
    model: ModelConfig,
    dtype: torch.dtype,
    threads: int,
    report: Report,
) -> tuple[Model, torch.dtype, str, str]:
    """(decoder, its dtype, attention backend, why): the native kernels where they can run, else plain torch."""

    def progress(done: int, total: int) -> None:
        report("weights", done / total, f"{done / 1e9:.2f} of {total / 1e9:.2f} GB")

    check_memory(model, dtype)
    if config.attention_backend in ("auto", "native"):
        build_in_background()
    weights = load_weights(config.model_path, model, "cpu", dtype, config.load_format, progress, config.seed)
    if config.attention_backend in ("auto", "native"):
        report("kernels", 0.0, "")
        native = build_decoder(model, weights, threads)
        if native is not None:
            return native, dtype, "native", native.native.instructions
    if config.attention_backend == "native":
        raise ConfigurationError("attention_backend native cannot run here; the log's last warning says why")
    if dtype is torch.bfloat16 and config.dtype == "auto" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning("this CPU has no bfloat16 arithmetic: without the native kernels the model runs as float32")
        dtype = torch.float32
        del weights
        check_memory(model, dtype)
        weights = load_weights(config.model_path, model, "cpu", dtype, config.load_format, progress, config.seed)
    windowed = any(model.layer_windows)
    context = ProbeContext(
        torch.device("cpu"), dtype, model.num_heads, model.num_kv_heads, model.head_dim, config.block_size, windowed
    )
    attention, reason = choose(config.attention_backend, context)
    return Decoder(model, weights, TorchOps(), attention), dtype, attention.name, reason


def check_memory(model: ModelConfig, dtype: torch.dtype) -> None:
    """Raises ConfigurationError rather than let the system kill the process half-way through the weights."""
    needed, free = weights_nbytes(model, dtype), available_bytes()
    if needed > free:
        raise ConfigurationError(
            f"the weights need {needed / 1e9:.1f} GB as {str(dtype).removeprefix('torch.')}, "
            f"but only {free / 1e9:.1f} GB of memory are free"
        )


def size_cache(config: EngineConfig, model: ModelConfig, layout: KvLayout) -> tuple[int, int]:
    """(max_model_len, blocks). Where no length was asked, the model's own is lowered to what the memory holds.

    Raises ConfigurationError for a cache that is not there: its pages are first touched in mid-stream.
    """
    free = available_bytes()
    memory = free // 4 if config.kv_cache_memory_gib is None else int(config.kv_cache_memory_gib * GIB)
    length = config.max_model_len
    if length is None:
        longest = model.longest_sequence(config.long_context_extrapolation)
        blocks = config.num_blocks if config.num_blocks is not None else memory // layout.block_nbytes
        length = max(1, min(longest, (blocks - 1) * layout.block_size))
        if length < longest:
            logger.warning("max_model_len is %d, not the model's %d: the KV cache holds no more", length, longest)
    blocks = size_in_blocks(layout, memory, config.max_num_seqs, length, config.num_blocks)
    if blocks * layout.block_nbytes > free:
        raise ConfigurationError(
            f"a KV cache of {blocks} blocks needs {blocks * layout.block_nbytes / GIB:.2f} GiB, but only "
            f"{free / GIB:.2f} GiB of memory are free: ask for less memory, fewer blocks or a lower max_num_seqs"
        )
    return length, blocks
