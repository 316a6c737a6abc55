"""Tilings of the decode products, found on whole decode steps of an H200 and generalised over shapes."""

from __future__ import annotations

import torch

from engine.kernels.common import ceil_div
from engine.kernels.skinny_gemm import SkinnyConfig
from engine.kernels.stream_gemm import StreamConfig
from engine.models.config import ModelConfig

Tiling = SkinnyConfig | StreamConfig
Table = dict[str, dict[int, Tiling]]
"""Kind of product -> largest number of rows -> tiling. Rows beyond the largest go to cuBLAS."""

PROGRAMS = 280
"""Programs of a skinny product that fill the chip twice; matrices of fewer tiles are split along k."""
SHORTEST_SPLIT = 512
MULTIPROCESSORS = 132
SHARED_BYTES = 232448 - 2048
"""Of a multiprocessor, for streamed tiles: without barriers and what the driver keeps."""


def product_table(config: ModelConfig, hopper: bool = False) -> Table:
    """Tilings for 16-bit weights of this model's shapes; `hopper`: streaming products too."""
    hidden, inner, o_size = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
    table: Table = {
        "qkv": {32: _split(config.qkv_width, hidden)},
        "o": {32: _split(hidden, o_size), 64: SkinnyConfig(64, 128, 2, True, 4, 4)},
        "gate_up": {16: SkinnyConfig(32, 128, 1, False, 4, 4), 32: SkinnyConfig(64, 128, 1, True, 4, 4)},
        "down": {32: _split(hidden, inner)},
        "lm_head": {16: SkinnyConfig(64, 128, 1, True, 4, 4), 64: SkinnyConfig(64, 128, 1, True, 4, 3)},
    }
    if not hopper:
        return table
    qkv, down = table["qkv"][32], table["down"][32]
    table["qkv"] = {16: qkv, 64: _streamed(config.qkv_width, hidden, 64, 220)}
    table["o"] = {
        8: _streamed(hidden, o_size, 8, 220),
        32: _streamed(hidden, o_size, 32, 220),
        64: _streamed(hidden, o_size, 64, 110, block_k=64),
    }
    table["down"] = {
        8: _streamed(hidden, inner, 8, 380),
        16: _streamed(hidden, inner, 16, 380),
        32: down,
        64: _streamed(hidden, inner, 64, 220),
    }
    # Smaller ones have too few tiles, as SwiGLU cannot be split; larger ones leave two stages to each program.
    if MULTIPROCESSORS <= ceil_div(inner, 64) <= 3 * MULTIPROCESSORS:
        table["gate_up"][64] = _streamed(inner, hidden, 64, 1, block_k=64, silu=True)
    return table


def _split(outputs: int, size: int) -> SkinnyConfig:
    wanted = round(PROGRAMS / ceil_div(outputs, 64))
    return SkinnyConfig(64, 128, max(1, min(wanted, size // SHORTEST_SPLIT, 16)), True, 4, 3)


def _streamed(
    outputs: int, size: int, rows: int, programs: int, block_k: int = 128, silu: bool = False
) -> StreamConfig:
    """About so many programs, and as many stages as let all of them be resident at once."""
    tiles = ceil_div(outputs, 64)
    splits = max(1, min(round(programs / tiles), size // SHORTEST_SPLIT, 16))
    stage = StreamConfig(64, block_k, splits, 4, 1).shared_bytes(rows, silu)
    each = SHARED_BYTES // ceil_div(tiles * splits, MULTIPROCESSORS)
    most = ceil_div(ceil_div(size, block_k), splits)
    return StreamConfig(64, block_k, splits, 4, max(2, min(each // stage, most, 12)))


def row_blocks(weight: torch.Tensor, norm: bool, silu: bool) -> tuple[int, int]:
    """Outputs and depth of a program's tile in the one-row kernel, for this [outputs, size] matrix."""
    outputs, size = weight.shape
    if silu:  # few large programs, as each computes the norm anew, where there is enough for all multiprocessors
        return (16, 256) if outputs // 2 >= 16 * 2 * PROGRAMS else (4, 512)
    if norm:
        return (8, 512)
    return (4, 1024) if size > 8192 else (4, 512)
