"""Prefill attention over paged keys and values: ragged rows of queries, causal, keys read from the pages.

FlashAttention-2's loop: a tile of queries of one head walks over its keys, first those that every query of the tile
may see, then those on the diagonal. A row's keys are its cached prefix and this chunk, which is stored already.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kernels.common import LOG2E, ceil_div, launch_options, wait_for_previous_kernel


class Tiling(NamedTuple):
    """Queries and keys of a tile, and how it is launched."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


SHORT = Tiling(64, 32, 4, 3)
LONG = Tiling(128, 64, 8, 2)
SHORT_QUERIES = 512
"""Chunks up to there are faster in small tiles: fewer of their queries and keys are padding."""


@triton.jit
def _walk(
    acc,
    best,
    total,
    query,
    k_head,
    v_head,
    table_row,
    begin,
    end,
    position,
    length,
    page_stride,
    token_stride,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Keys begin .. end - 1, both multiples of BLOCK_N unless MASKED."""
    column = tl.arange(0, HEAD_DIM)
    key = tl.arange(0, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        page = tl.load(table_row + start // PAGE).to(tl.int64)
        offsets = page * page_stride + (start % PAGE + key)[:, None] * token_stride + column[None, :]
        if MASKED:
            stored = (start + key < length)[:, None]
            keys = tl.load(k_head + offsets, mask=stored, other=0.0)
            values = tl.load(v_head + offsets, mask=stored, other=0.0)
        else:
            keys = tl.load(k_head + offsets)
            values = tl.load(v_head + offsets)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee")
        if MASKED:
            seen = (start + key)[None, :] <= position[:, None]
            if WINDOW > 0:
                seen = seen & ((start + key)[None, :] > position[:, None] - WINDOW)
            score = tl.where(seen, score, float("-inf"))
        new_best = tl.maximum(best, tl.max(score, 1))
        shift = tl.where(new_best == float("-inf"), 0.0, new_best)
        weight = tl.exp2(score - shift[:, None])
        shrink = tl.exp2(best - shift)
        total = total * shrink + tl.sum(weight, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(weight.to(values.dtype), values, acc, input_precision="ieee")
        best = new_best
    return acc, best, total


@triton.jit(do_not_specialize=["first_row"])
def _paged_prefill(
    q,
    k_cache,
    v_cache,
    out,
    query_start,
    context_len,
    block_table,
    first_row,
    scale,
    page_stride,
    token_stride,
    table_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    PDL: tl.constexpr,
):
    head = tl.program_id(0)
    row = tl.program_id(1) + first_row
    wait_for_previous_kernel(PDL)
    token = tl.load(query_start + row)
    queries = tl.load(query_start + row + 1) - token
    # The last tiles have the most keys: start them first.
    tile = tl.num_programs(2) - 1 - tl.program_id(2)
    if tile * BLOCK_M >= queries:
        return
    length = tl.load(context_len + row)
    index = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    position = length - queries + index
    column = tl.arange(0, HEAD_DIM)
    offsets = ((token + index).to(tl.int64) * HEADS + head)[:, None] * HEAD_DIM + column[None, :]
    real = (index < queries)[:, None]
    query = tl.load(q + offsets, mask=real, other=0.0)
    query = (query.to(tl.float32) * (scale * LOG2E)).to(query.dtype)
    k_head = k_cache + (head // GROUP) * HEAD_DIM
    v_head = v_cache + (head // GROUP) * HEAD_DIM
    table_row = block_table + row.to(tl.int64) * table_stride
    first = length - queries + tile * BLOCK_M
    end = tl.minimum(first + BLOCK_M, length)
    begin = 0
    diagonal = (first + 1) // BLOCK_N * BLOCK_N
    if WINDOW > 0:
        begin = tl.maximum(first + 1 - WINDOW, 0) // BLOCK_N * BLOCK_N
        diagonal = begin
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc, best, total = _walk(
        acc, best, total, query, k_head, v_head, table_row, begin, diagonal, position, length,
        page_stride, token_stride, HEAD_DIM, PAGE, BLOCK_N, WINDOW, False,
    )  # fmt: skip
    acc, best, total = _walk(
        acc, best, total, query, k_head, v_head, table_row, diagonal, end, position, length,
        page_stride, token_stride, HEAD_DIM, PAGE, BLOCK_N, WINDOW, True,
    )  # fmt: skip
    tl.store(out + offsets, (acc / total[:, None]).to(out.dtype.element_ty), mask=real)


def paged_prefill(
    query: torch.Tensor,  # [tokens, heads, head_dim]
    key_cache: torch.Tensor,  # [blocks, block_size, kv_heads, head_dim]
    value_cache: torch.Tensor,
    query_start: torch.Tensor,  # [rows + 1] int32
    context_len: torch.Tensor,  # [rows] int32
    block_table: torch.Tensor,  # [rows, max_blocks] int32
    max_query_len: int,
    scale: float,
    first_row: int = 0,
    window: int | None = None,
    out: torch.Tensor | None = None,
    tiling: Tiling | None = None,
    pdl: bool = False,
) -> torch.Tensor:  # [tokens, heads, head_dim]
    """Rows first_row .. rows - 1 of a ragged step; the tokens of other rows are left as they are."""
    heads, head_dim = query.shape[1], query.shape[2]
    block_m, block_n, num_warps, num_stages = tiling or (SHORT if max_query_len <= SHORT_QUERIES else LONG)
    page, kv_heads = key_cache.shape[1], key_cache.shape[2]
    if query.dtype == torch.float32:  # float32 tiles are twice as large and use no tensor cores
        block_m, block_n = min(block_m, 32), min(block_n, 32)
    out = torch.empty_like(query) if out is None else out
    rows = context_len.shape[0] - first_row
    _paged_prefill[(heads, rows, ceil_div(max_query_len, block_m))](
        query,
        key_cache,
        value_cache,
        out,
        query_start,
        context_len,
        block_table,
        first_row,
        scale,
        key_cache.stride(0),
        key_cache.stride(1),
        block_table.stride(0),
        HEADS=heads,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        PAGE=page,
        BLOCK_M=block_m,
        BLOCK_N=min(block_n, page),
        WINDOW=window or 0,
        num_warps=num_warps,
        num_stages=num_stages,
        **launch_options(pdl),
    )
    return out
