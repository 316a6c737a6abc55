"""Attention of all decode rows to the keys that they share: read once for all of them, not once a row.

Prompts with a common beginning (a system prompt) share its blocks. As in cascade inference (FlashInfer), the queries
of all rows attend to these keys as one ragged-free product: the query heads of one KV head, of all rows, are packed
into tiles, and the keys are split so that the chip is filled. Each split leaves a partial result and its log-sum-exp;
the decode kernel attends to each row's own keys and joins all of them in order.

The shared length is read on the device, so one CUDA graph serves every length, zero among them. Under programmatic
dependent launch the decode kernel starts as soon as all programs here have seen their inputs, and waits for them only
when it has attended to the rows' own keys: this kernel is bound by arithmetic, that one by memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kernels.common import (
    LOG2E,
    ceil_div,
    launch_options,
    let_next_kernel_start,
    next_power_of_two,
    wait_for_previous_kernel,
)

MULTIPROCESSORS = 132
MAX_SPLITS = 16


class PrefixTiling(NamedTuple):
    """Queries and keys of a tile, programs along the keys, and how it is launched."""

    block_m: int
    block_n: int
    splits: int
    num_warps: int
    num_stages: int


class PrefixPartials(NamedTuple):
    """What `shared_prefix` leaves for the decode kernel."""

    out: torch.Tensor  # float32 [rows, kv_heads, splits, group, head_dim], flat
    lse: torch.Tensor  # float32 [rows, kv_heads, splits, group], flat; base 2
    shared_len: torch.Tensor  # [1] int32
    splits: int
    block: int


@triton.jit
def prefix_chunk(length, splits, BLOCK: tl.constexpr):
    """Keys of one split: a positive multiple of BLOCK."""
    return tl.maximum(tl.cdiv(tl.cdiv(length, splits), BLOCK), 1) * BLOCK


@triton.jit(do_not_specialize=["packed", "splits"])
def _shared_prefix(
    q,
    k_cache,
    v_cache,
    partial_out,
    partial_lse,
    table,
    shared_len,
    packed,
    splits,
    scale,
    page_stride,
    token_stride,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PDL: tl.constexpr,
):
    head = tl.program_id(0)
    split = tl.program_id(1)
    tile = tl.program_id(2)
    wait_for_previous_kernel(PDL)
    let_next_kernel_start(PDL)
    length = tl.load(shared_len)
    chunk = prefix_chunk(length, splits, BLOCK_N)
    begin = split * chunk
    if begin >= length:
        return
    end = tl.minimum(begin + chunk, length)
    index = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, HEAD_DIM)
    key = tl.arange(0, BLOCK_N)
    real = index < packed
    cell = index // GROUP * KV_HEADS + head
    member = index % GROUP
    offsets = (cell * GROUP + member)[:, None] * HEAD_DIM + column[None, :]
    query = tl.load(q + offsets, mask=real[:, None], other=0.0)
    query = (query.to(tl.float32) * (scale * LOG2E)).to(query.dtype)
    k_head = k_cache + head * HEAD_DIM
    v_head = v_cache + head * HEAD_DIM
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    # Whole pages: nothing is masked.
    for start in range(begin, end, BLOCK_N):
        page = tl.load(table + start // PAGE).to(tl.int64)
        places = page * page_stride + (start % PAGE + key)[:, None] * token_stride + column[None, :]
        score = tl.dot(query, tl.trans(tl.load(k_head + places)), input_precision="ieee")
        values = tl.load(v_head + places)
        new_best = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp2(score - new_best[:, None])
        shrink = tl.exp2(best - new_best)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
        best = new_best
    spot = (cell * splits + split) * GROUP + member
    tl.store(partial_out + spot[:, None] * HEAD_DIM + column[None, :], acc / total[:, None], mask=real[:, None])
    tl.store(partial_lse + spot, best + tl.log2(total), mask=real)


class PrefixWorkspace:
    """Partial results of the shared keys, of all layers and all batch sizes of one device."""

    def __init__(self, max_rows: int, heads: int, head_dim: int, device: torch.device) -> None:
        # choose_prefix_tiling asks for more splits than one only while all tiles are no more than the chip runs.
        queries = max(max_rows * heads, 2 * MULTIPROCESSORS * 128)
        self.out = torch.empty(queries * head_dim, dtype=torch.float32, device=device)
        self.lse = torch.empty(queries, dtype=torch.float32, device=device)


def choose_prefix_tiling(rows: int, kv_heads: int, group: int) -> PrefixTiling:
    """Programs for about one and a quarter rounds of the chip: the decode kernel's run beside them."""
    packed = rows * group
    block_m = min(64, max(16, next_power_of_two(packed)))
    tiles = kv_heads * ceil_div(packed, block_m)
    splits = max(1, min(MAX_SPLITS, round(1.3 * MULTIPROCESSORS / tiles)))
    return PrefixTiling(block_m, 64, splits, 4, 3)


def shared_prefix(
    query: torch.Tensor,  # [rows, heads, head_dim]
    key_cache: torch.Tensor,  # [blocks, block_size, kv_heads, head_dim]
    value_cache: torch.Tensor,
    block_table: torch.Tensor,  # [rows, max_blocks] int32; the first row's is read
    shared_len: torch.Tensor,  # [1] int32: a multiple of block_size, maybe 0
    scale: float,
    workspace: PrefixWorkspace,
    tiling: PrefixTiling | None = None,
    pdl: bool = False,
) -> PrefixPartials:
    """Every row's attention to the first shared_len keys of the first row."""
    rows, heads, head_dim = query.shape
    page, kv_heads = key_cache.shape[1], key_cache.shape[2]
    group = heads // kv_heads
    block_m, block_n, splits, num_warps, num_stages = tiling or choose_prefix_tiling(rows, kv_heads, group)
    if query.dtype == torch.float32:  # float32 tiles are twice as large and use no tensor cores
        block_m, block_n = min(block_m, 32), min(block_n, 32)
    block_n = min(block_n, page)
    _shared_prefix[(kv_heads, splits, ceil_div(rows * group, block_m))](
        query, key_cache, value_cache, workspace.out, workspace.lse, block_table, shared_len,
        rows * group, splits, scale, key_cache.stride(0), key_cache.stride(1),
        GROUP=group,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        PAGE=page,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        num_warps=num_warps,
        num_stages=num_stages,
        **launch_options(pdl),
    )  # fmt: skip
    return PrefixPartials(workspace.out, workspace.lse, shared_len, splits, block_n)
