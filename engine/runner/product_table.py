"""Tilings of the decode products, found on whole decode steps of an H200 and generalised over shapes."""

from __future__ import annotations

import torch

from engine.kernels.common import ceil_div
from engine.kernels.skinny_gemm import SkinnyConfig
from engine.kernels.stream_config import StreamConfig
from engine.models.config import ModelConfig

Tiling = SkinnyConfig | StreamConfig
Table = dict[str, dict[int, Tiling]]
"""Kind of product -> largest number of rows, ascending -> tiling. Rows beyond the largest go to cuBLAS."""

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
    table["qkv"] = {16: table["qkv"][32], 64: _streamed(config.qkv_width, hidden, 64, 220)}
    table["o"] = {
        8: _streamed(hidden, o_size, 8, 220, few_rows=True),
        16: _streamed(hidden, o_size, 16, 220, few_rows=True),
        32: _streamed(hidden, o_size, 32, 220, block_k=64, few_rows=True),
        64: _streamed(hidden, o_size, 64, 110, block_k=64),
    }
    table["down"] = {rows: _streamed(hidden, inner, rows, 380, few_rows=True) for rows in (8, 16, 32)}
    table["down"][64] = _streamed(hidden, inner, 64, 220)
    table["gate_up"] = dict(sorted((table["gate_up"] | _streamed_swiglu(inner, hidden)).items()))
    return table


def _split(outputs: int, size: int) -> SkinnyConfig:
    wanted = round(PROGRAMS / ceil_div(outputs, 64))
    return SkinnyConfig(64, 128, max(1, min(wanted, size // SHORTEST_SPLIT, 16)), True, 4, 3)


def _streamed(
    outputs: int, size: int, rows: int, programs: int, block_k: int = 128, few_rows: bool = False
) -> StreamConfig:
    """About so many programs."""
    tiles = ceil_div(outputs, 64)
    splits = max(1, min(round(programs / tiles), size // SHORTEST_SPLIT, 16))
    config = StreamConfig(64, block_k, splits, 4, few_rows=few_rows)
    return _resident(config, tiles * splits, ceil_div(ceil_div(size, block_k), splits), rows)


def _streamed_swiglu(inner: int, hidden: int) -> dict[int, Tiling]:
    """Nothing where there are too few tiles, as SwiGLU cannot be split, or so many that two stages would be left."""
    tiles, blocks = ceil_div(inner, 64), ceil_div(hidden, 64)
    if not MULTIPROCESSORS <= tiles <= 3 * MULTIPROCESSORS:
        return {}
    found: dict[int, Tiling] = {}
    for rows in (8, 16):
        few = StreamConfig(64, 128, few_rows=True)
        found[rows] = _resident(few, tiles, ceil_div(blocks, 2), rows, silu=True)
    wide_tiles = ceil_div(inner, 72)
    if ceil_div(wide_tiles, MULTIPROCESSORS) == ceil_div(tiles, MULTIPROCESSORS):
        return found | {64: _resident(StreamConfig(64), tiles, blocks, 64, silu=True)}
    for rows in (32, 64, 128):
        found[rows] = _resident(StreamConfig(64, wide=True), wide_tiles, blocks, rows, silu=True)
    if ceil_div(inner, 144) <= MULTIPROCESSORS:
        found[96] = _resident(StreamConfig(128, num_warps=8, wide=True), MULTIPROCESSORS, blocks, 96, silu=True)
    return found


def _resident(config: StreamConfig, programs: int, blocks: int, rows: int, silu: bool = False) -> StreamConfig:
    """As many stages as let all programs be resident at once."""
    each = SHARED_BYTES // ceil_div(programs, MULTIPROCESSORS)
    stages = min(12, blocks)
    while stages > 2 and config._replace(stages=stages).shared_bytes(rows, silu) > each:
        stages -= 1
    return config._replace(stages=stages)


def row_blocks(weight: torch.Tensor, norm: bool, silu: bool) -> tuple[int, int]:
    """Outputs and depth of a program's tile in the one-row kernel, for this [outputs, size] matrix."""
    outputs, size = weight.shape
    if silu:  # few large programs, as each computes the norm anew, where there is enough for all multiprocessors
        return (16, 256) if outputs // 2 >= 16 * 2 * PROGRAMS else (4, 512)
    if norm:
        return (8, 512)
    return (4, 1024) if size > 8192 else (4, 512)
