"""Long prompts by torch where the CPU has matrix units that torch uses and our kernels do not (AMX, most of all).

Measured, not guessed: both multiply the same matrix once at start. Weights and cache are shared, so a step may take
either way; only their rounding differs.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from engine.attention.base import AttentionMetadata
from engine.attention.native import NativeAttention
from engine.models.config import ModelConfig
from engine.models.decoder import Decoder
from engine.models.layers import TorchOps
from engine.models.rope import RotaryStep
from engine.models.weights import ModelWeights
from engine.native.library import Native

logger = logging.getLogger(__name__)

SIZES = (32, 128)
CLEARLY_FASTER = 0.4
"""Share of the native time that torch must stay under. Around its products its decoder takes half as long again as a
whole native step does: where they took 0.8 of the time (AVX512-BF16, 0.5B), its steps took 1.4 times as long."""


class WideSteps:
    """Runs steps of at least `min_tokens` tokens on `threads` torch threads."""

    def __init__(self, decoder: Decoder, min_tokens: int, threads: int) -> None:
        self._decoder = decoder
        self.min_tokens = min_tokens
        self._threads = threads

    def forward(
        self,
        token_ids: torch.Tensor,
        rotary: RotaryStep,
        metadata: AttentionMetadata,
        kv_cache: torch.Tensor,
        kept: torch.Tensor | None,
    ) -> torch.Tensor:
        """As `Decoder.forward`, but float32 as the native decoder gives it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return self._decoder.forward(token_ids, rotary, metadata, kv_cache, kept).float()
        finally:
            torch.set_num_threads(before)


def wide_steps(config: ModelConfig, weights: ModelWeights, native: Native) -> WideSteps | None:
    """What torch does better here, or None: always None without bf16 in hardware that torch knows of."""
    if weights.embedding.dtype is not torch.bfloat16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    min_tokens = crossover(native, weights.layers[0].gate_up)
    if min_tokens is None:
        return None
    logger.info("steps of %d tokens and more are computed by torch, which is faster at them here", min_tokens)
    shared = dataclasses.replace(weights, layers=list(weights.layers))  # the decoder empties its list
    return WideSteps(Decoder(config, shared, TorchOps(), NativeAttention(native)), min_tokens, threads=native.threads)


def crossover(native: Native, weight: torch.Tensor) -> int | None:
    """The smallest of SIZES at which torch multiplies clearly faster, if any."""
    before = torch.get_num_threads()
    torch.set_num_threads(native.threads)
    try:
        for rows in SIZES:
            x = torch.ones(rows, weight.shape[1], dtype=weight.dtype)
            own = best_s(partial(native.linear, x, weight))
            if best_s(partial(F.linear, x, weight)) < CLEARLY_FASTER * own:
                return rows
    finally:
        torch.set_num_threads(before)
    return None


def best_s(body: Callable[[], object], repeats: int = 4) -> float:
    """The fastest of a few calls: the one that other work on the machine disturbed least."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        body()
        times.append(time.perf_counter() - started)
    return min(times)
