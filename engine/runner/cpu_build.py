"""Builds the CPU runner: dtype, threads, weights, kernels, the size of the KV cache."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import torch

from engine.attention.registry import ProbeContext, choose
from engine.config import EngineConfig
from engine.errors import ConfigurationError
from engine.memory.host import available_bytes
from engine.memory.kv_layout import KvLayout, size_in_blocks
from engine.models.architectures import by_name
from engine.models.checkpoint import stored_dtype
from engine.models.config import ModelConfig
from engine.models.decoder import Decoder, Model
from engine.models.layers import TorchOps
from engine.models.rope import Rotary
from engine.models.vocabulary import tokenizer_size
from engine.models.weights import load_weights, weights_nbytes
from engine.native.build import build_in_background
from engine.native.decoder import NativeDecoder, build_decoder
from engine.native.sampler import NativeChooser
from engine.process.messages import EngineInfo
from engine.runner.cpu_runner import CpuRunner
from engine.runner.hardware import physical_cores
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling.sampler import Sampler

logger = logging.getLogger(__name__)

NATIVE_BLOCK_SIZE = 32
"""The native kernels read any page in place, so small blocks cost nothing and leave little unused."""
TORCH_BLOCK_SIZE = 256
"""Plain torch gathers a row's pages where there is more than one: large blocks keep most rows within one."""


def build(
    config: EngineConfig, model: ModelConfig, report: Callable[[str, float, str], None]
) -> tuple[CpuRunner, EngineInfo]:
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
    known = min(tokenizer_size(config.model_path) or model.vocab_size, model.vocab_size)
    cache = layout.allocate(num_blocks, "cpu")
    chooser = NativeChooser(decoder.native) if isinstance(decoder, NativeDecoder) else None
    sampler = Sampler(known, chooser=chooser)
    compiler = DeferredCompiler(config.model_path)
    runner = CpuRunner(decoder, rotary, sampler, cache, max_model_len, model.vocab_size, compiler)
    info = EngineInfo(
        architecture=by_name(model.architecture).class_name,
        vocab_size=model.vocab_size,
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or 512,
        block_size=layout.block_size,
        num_blocks=num_blocks,
        kv_cache_bytes=num_blocks * layout.block_nbytes,
        weights_bytes=weights_nbytes(model, dtype),
        device=f"cpu ({threads} {'threads' if threads > 1 else 'thread'}, {reason})",
        dtype=str(dtype).removeprefix("torch."),
        attention_backend=attention,
        attention_reason=reason,
        policy=config.policy,
        load_s=0.0,
        pid=os.getpid(),
    )
    return runner, info


def choose_dtype(config: EngineConfig, model: ModelConfig) -> torch.dtype:
    """The asked dtype, or the checkpoint's own; float16 checkpoints run as float32, which no CPU is slower at."""
    if config.dtype != "auto":
        return named_dtype(config.dtype)
    if model.dtype:
        found = named_dtype(model.dtype)
    elif config.load_format == "dummy":
        found = torch.bfloat16
    else:
        found = stored_dtype(config.model_path, by_name(model.architecture).embedding)
    if found is torch.float16:
        logger.info("the checkpoint is float16, which CPUs compute slowly: running it as float32")
        return torch.float32
    return found


def named_dtype(name: str) -> torch.dtype:
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[name]


def load_decoder(
    config: EngineConfig,
    model: ModelConfig,
    dtype: torch.dtype,
    threads: int,
    report: Callable[[str, float, str], None],
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
    """(max_model_len, blocks). Where no length was asked, the model's own is lowered to what the memory holds."""
    if config.kv_cache_memory_gib is not None:
        memory = int(config.kv_cache_memory_gib * (1 << 30))
    else:
        memory = available_bytes() // 4
    length = config.max_model_len
    if length is None:
        longest = model.extrapolated_max_position if config.long_context_extrapolation else model.max_position
        blocks = config.num_blocks if config.num_blocks is not None else memory // layout.block_nbytes
        length = max(1, min(longest, (blocks - 1) * layout.block_size))
        if length < longest:
            logger.warning("max_model_len is %d, not the model's %d: the KV cache holds no more", length, longest)
    return length, size_in_blocks(layout, memory, config.max_num_seqs, length, config.num_blocks)
