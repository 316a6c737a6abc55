"""Every setting of the engine, in one frozen Struct that crosses the process boundary."""

from __future__ import annotations

from typing import Literal

import msgspec

PolicyName = Literal["sjf", "aligned-sjf", "fcfs"]
LoadFormat = Literal["auto", "dummy"]

CPU_BATCHED_TOKENS = 512
CUDA_BATCHED_TOKENS = 8192
"""max_num_batched_tokens where it is left open."""


class EngineConfig(msgspec.Struct, frozen=True):
    """Settings of one engine. None or "auto" means: decided at start from the model and the hardware."""

    model_path: str
    """Folder with config.json, *.safetensors and the tokenizer."""
    device: str = "auto"
    """"cpu", "cuda" or "cuda:N"; auto takes CUDA when there is one."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: the checkpoint's own dtype (float32 checkpoints stay float32)."""
    load_format: LoadFormat = "auto"
    """dummy: random weights, no weight file is read; for benchmarks."""
    max_model_len: int | None = None
    """Longest sequence, prompt and output together, in tokens."""
    block_size: int | None = None
    """Tokens a KV block; None: what the attention backend likes best."""
    num_blocks: int | None = None
    """KV blocks; None: from the memory settings below."""
    kv_cache_memory_gib: float | None = None
    """CPU: memory for KV blocks (None: a quarter of what is free, at most what max_num_seqs full sequences need)."""
    gpu_memory_utilization: float = 0.90
    """CUDA: share of the device's memory for weights, activations and KV blocks together."""
    max_num_seqs: int = 256
    """Sequences running at once."""
    max_num_batched_tokens: int | None = None
    """Token budget of a step, shared by decode rows and prefill chunks. None: 8192 on CUDA, 512 on CPU."""
    policy: PolicyName = "sjf"
    enable_prefix_caching: bool = True
    attention_backend: str = "auto"
    """"auto", "native", "cpu", "reference" on CPU; "auto", "triton", "flash-attn", "fa3", "reference" on CUDA."""
    enforce_eager: bool = False
    """CUDA: no CUDA graphs."""
    kv_cache_dtype: Literal["auto"] = "auto"
    seed: int = 0
    num_threads: int | None = None
    """CPU threads of the engine's process; None: all physical cores that its container may use."""
    long_context_extrapolation: bool = False
    """Qwen 1 only: dynamic NTK and logn attention beyond seq_length; turns prefix caching off."""
