"""Tilings of the decode products, found by `benchmarks/gpu_kernels.py` on an H200 and generalised over shapes."""

from __future__ import annotations

import torch

from engine.kernels.skinny_gemm import SkinnyConfig
from engine.kernels.stream_gemm import StreamConfig
from engine.models.config import ModelConfig

Table = dict[str, dict[int, SkinnyConfig | StreamConfig]]
"""Kind of product -> largest number of rows -> tiling. Rows beyond the largest go to cuBLAS."""

PROGRAMS = 280
"""Programs of a product that fill the chip twice; matrices of fewer tiles are split along k."""
SHORTEST_SPLIT = 512


def product_table(config: ModelConfig) -> Table:
    """Tilings for 16-bit weights of this model's shapes."""
    hidden = config.hidden_size
    o_size = config.num_heads * config.head_dim

    def split(outputs: int, size: int, stages: int = 3) -> SkinnyConfig:
        wanted = round(PROGRAMS / -(-outputs // 64))
        return SkinnyConfig(64, 128, max(1, min(wanted, size // SHORTEST_SPLIT, 16)), True, 4, stages)

    few = SkinnyConfig(64, 128, 2, True, 4, 4)
    return {
        "qkv": {32: split(config.qkv_width, hidden)},
        "o": {32: split(hidden, o_size), 64: few},
        "gate_up": {16: SkinnyConfig(32, 128, 1, False, 4, 4), 32: SkinnyConfig(64, 128, 1, True, 4, 4)},
        "down": {32: split(hidden, config.intermediate_size)},
        "lm_head": {16: SkinnyConfig(64, 128, 1, True, 4, 4), 64: SkinnyConfig(64, 128, 1, True, 4, 3)},
    }


def row_blocks(weight: torch.Tensor, norm: bool, silu: bool) -> tuple[int, int]:
    """Outputs and depth of a program's tile in the one-row kernel, for this [outputs, size] matrix."""
    outputs, size = weight.shape
    if silu:  # few large programs, as each computes the norm anew, where there is enough for all multiprocessors
        return (16, 256) if outputs // 2 >= 16 * 2 * PROGRAMS else (4, 512)
    if norm:
        return (8, 512)
    return (4, 1024) if size > 8192 else (4, 512)
