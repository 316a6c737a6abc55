"""Decode attention over paged keys and values: one query a row, split along the keys, merged by the last to arrive.

The query heads of one KV head share its keys, so they are packed into one 16-row tile (grouped-query packing); each
row's keys are cut into chunks (FlashDecoding) whose partial softmaxes are joined by their log-sum-exp. The number of
programs depends on the batch's shape alone and lengths are read on the device, so one CUDA graph serves all lengths.
The chunks of a row depend on its own length and the fixed split count only, and are joined in order: results do not
depend on timing.

Where all rows share their first keys, `shared_prefix` attends to those: a row's own keys begin behind them, and its
partials are joined with the shared ones'.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import LOG2E, launch_options, let_next_kernel_start, wait_for_previous_kernel
from engine.kernels.shared_prefix import MAX_SPLITS as MAX_PREFIX_SPLITS
from engine.kernels.shared_prefix import PrefixPartials, prefix_chunk

MAX_SPLITS = 32
MULTIPROCESSORS = 132
"""Of an H100 or H200; on smaller chips the split counts are merely larger than needed."""


@triton.jit
def _attend_chunk(
    query,
    k_head,
    v_head,
    table_row,
    begin,
    end,
    page_stride,
    token_stride,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Online softmax of `query` (already scaled, base 2) over keys begin .. end - 1."""
    column = tl.arange(0, HEAD_DIM)
    key = tl.arange(0, BLOCK)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    first = begin // BLOCK * BLOCK
    for start in range(first, end, BLOCK):
        page = tl.load(table_row + start // PAGE).to(tl.int64)
        offsets = page * page_stride + (start % PAGE + key)[:, None] * token_stride + column[None, :]
        valid = (start + key >= begin) & (start + key < end)
        keys = tl.load(k_head + offsets, mask=valid[:, None], other=0.0)
        values = tl.load(v_head + offsets, mask=valid[:, None], other=0.0)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee")
        score = tl.where(valid[None, :], score, float("-inf"))
        new_best = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp2(score - new_best[:, None])
        shrink = tl.exp2(best - new_best)
        total = total * shrink + tl.sum(weight, 1)
        acc = acc * shrink[:, None] + tl.dot(weight.to(values.dtype), values, input_precision="ieee")
        best = new_best
    return acc / total[:, None], best + tl.log2(total)


@triton.jit(do_not_specialize=["prefix_splits"])
def _paged_decode(
    q,
    k_cache,
    v_cache,
    out,
    partial_out,
    partial_lse,
    arrivals,
    block_table,
    context_len,
    shared_len,
    prefix_out,
    prefix_lse,
    prefix_splits,
    scale,
    page_stride,
    token_stride,
    table_stride,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    MIN_CHUNK: tl.constexpr,
    WINDOW: tl.constexpr,
    MAX_PREFIX_SPLITS: tl.constexpr,
    PREFIX_BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    head = tl.program_id(0)
    split = tl.program_id(1)
    row = tl.program_id(2)
    if PREFIX_BLOCK == 0:
        wait_for_previous_kernel(PDL)
    # Else `_shared_prefix`, which lets this kernel start, has waited for all that is read here but its own partials.
    let_next_kernel_start(PDL)
    length = tl.load(context_len + row)
    oldest = 0
    if PREFIX_BLOCK > 0:
        oldest = tl.minimum(tl.load(shared_len), length - 1)  # rows that only pad a graph may be shorter
    if WINDOW > 0:
        oldest = tl.maximum(length - WINDOW, 0) // BLOCK * BLOCK
    keys = length - oldest
    chunk = tl.maximum(tl.cdiv(tl.cdiv(keys, SPLITS), BLOCK) * BLOCK, MIN_CHUNK)
    chunks = tl.cdiv(keys, chunk)
    if split >= chunks:
        return
    member = tl.arange(0, ROWS)
    column = tl.arange(0, HEAD_DIM)
    heads = row.to(tl.int64) * KV_HEADS * GROUP + head * GROUP + member
    real = member < GROUP
    offsets = heads[:, None] * HEAD_DIM + column[None, :]
    query = tl.load(q + offsets, mask=real[:, None], other=0.0)
    query = (query.to(tl.float32) * (scale * LOG2E)).to(query.dtype)
    begin = oldest + split * chunk
    end = tl.minimum(begin + chunk, length)
    if WINDOW > 0:
        begin = tl.maximum(begin, length - WINDOW)
    table_row = block_table + row.to(tl.int64) * table_stride
    result, lse = _attend_chunk(
        query, k_cache + head * HEAD_DIM, v_cache + head * HEAD_DIM, table_row, begin, end,
        page_stride, token_stride, HEAD_DIM, ROWS, PAGE, BLOCK,
    )  # fmt: skip
    cell = row.to(tl.int64) * KV_HEADS + head
    if SPLITS == 1:
        _finish(
            out + offsets, result, lse, cell, shared_len, prefix_out, prefix_lse, prefix_splits, member, real,
            GROUP, HEAD_DIM, MAX_PREFIX_SPLITS, PREFIX_BLOCK, PDL,
        )  # fmt: skip
        return
    if chunks == 1:
        _finish(
            out + offsets, result, lse, cell, shared_len, prefix_out, prefix_lse, prefix_splits, member, real,
            GROUP, HEAD_DIM, MAX_PREFIX_SPLITS, PREFIX_BLOCK, PDL,
        )  # fmt: skip
        return
    spot = (cell * SPLITS + split) * GROUP + member
    tl.store(partial_out + spot[:, None] * HEAD_DIM + column[None, :], result, mask=real[:, None])
    tl.store(partial_lse + spot, lse, mask=real)
    tl.debug_barrier()
    arrived = tl.atomic_add(arrivals + cell, 1, sem="acq_rel", scope="gpu")
    if arrived == chunks - 1:
        result, lse = _merge(partial_out, partial_lse, cell, chunks, member, real, GROUP, HEAD_DIM, ROWS, SPLITS)
        _finish(
            out + offsets, result, lse, cell, shared_len, prefix_out, prefix_lse, prefix_splits, member, real,
            GROUP, HEAD_DIM, MAX_PREFIX_SPLITS, PREFIX_BLOCK, PDL,
        )  # fmt: skip
        tl.store(arrivals + cell, 0)


@triton.jit
def _merge(
    partial_out,
    partial_lse,
    cell,
    chunks,
    member,
    real,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    column = tl.arange(0, HEAD_DIM)
    split = tl.arange(0, SPLITS)
    spots = (cell * SPLITS + split[:, None]) * GROUP + member[None, :]
    known = (split[:, None] < chunks) & real[None, :]
    lse = tl.load(partial_lse + spots, mask=known, other=float("-inf"), cache_modifier=".cg")
    best = tl.where(real, tl.max(lse, 0), 0.0)
    norm = tl.where(real, tl.sum(tl.exp2(lse - best[None, :]), 0), 1.0)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for index in tl.range(0, chunks, num_stages=1, loop_unroll_factor=4):
        spot = (cell * SPLITS + index) * GROUP + member
        part = tl.load(
            partial_out + spot[:, None] * HEAD_DIM + column[None, :],
            mask=real[:, None],
            other=0.0,
            cache_modifier=".cg",
        )
        weight = tl.exp2(tl.load(partial_lse + spot, mask=real, other=0.0, cache_modifier=".cg") - best) / norm
        acc += part * weight[:, None]
    return acc, best + tl.log2(norm)


@triton.jit
def _finish(
    target,
    result,
    lse,
    cell,
    shared_len,
    prefix_out,
    prefix_lse,
    splits,
    member,
    real,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the attention to a row's own keys, joined with that to the shared ones where there are any."""
    if BLOCK > 0:
        wait_for_previous_kernel(PDL)
        column = tl.arange(0, HEAD_DIM)
        length = tl.load(shared_len)
        chunks = tl.cdiv(length, prefix_chunk(length, splits, BLOCK))
        split = tl.arange(0, MAX_SPLITS)
        spots = (cell * splits + split[:, None]) * GROUP + member[None, :]
        known = (split[:, None] < chunks) & real[None, :]
        others = tl.load(prefix_lse + spots, mask=known, other=float("-inf"), cache_modifier=".cg")
        best = tl.maximum(lse, tl.max(others, 0))
        own = tl.exp2(lse - best)
        norm = own + tl.sum(tl.exp2(others - best[None, :]), 0)
        result = result * (own / norm)[:, None]
        for index in tl.range(0, chunks, num_stages=1, loop_unroll_factor=4):
            spot = (cell * splits + index) * GROUP + member
            part = tl.load(
                prefix_out + spot[:, None] * HEAD_DIM + column[None, :],
                mask=real[:, None],
                other=0.0,
                cache_modifier=".cg",
            )
            weight = tl.load(prefix_lse + spot, mask=real, other=float("-inf"), cache_modifier=".cg") - best
            result += part * (tl.exp2(weight) / norm)[:, None]
    tl.store(target, result.to(target.dtype.element_ty), mask=real[:, None])


class DecodeWorkspace:
    """Partial results and arrival counters, shared by all layers and all batch sizes of one device."""

    def __init__(self, max_rows: int, kv_heads: int, group: int, head_dim: int, device: torch.device) -> None:
        # choose_splits never asks for more partials than this.
        partials = 4 * MULTIPROCESSORS
        self.out = torch.empty(partials * group * head_dim, dtype=torch.float32, device=device)
        self.lse = torch.empty(partials * group, dtype=torch.float32, device=device)
        self.arrivals = torch.zeros(max_rows * kv_heads, dtype=torch.int32, device=device)


def choose_splits(rows: int, kv_heads: int) -> int:
    """Programs for at least one and a half rounds of the chip: a power of two up to MAX_SPLITS."""
    splits = 1
    while splits < MAX_SPLITS and 2 * rows * kv_heads * splits < 3 * MULTIPROCESSORS:
        splits *= 2
    return splits


def choose_launch(rows: int, kv_heads: int, splits: int) -> tuple[int, int]:
    """(num_warps, num_stages): few programs read further ahead, many share a multiprocessor better when small."""
    programs = rows * kv_heads * splits
    if programs > 4 * MULTIPROCESSORS:
        return 2, 2
    return 4, 3 if rows >= 16 and programs <= (3 if splits == 1 else 2) * MULTIPROCESSORS else 2


def paged_decode(
    query: torch.Tensor,  # [rows, heads, head_dim]
    key_cache: torch.Tensor,  # [blocks, block_size, kv_heads, head_dim]
    value_cache: torch.Tensor,
    block_table: torch.Tensor,  # [rows, max_blocks] int32
    context_len: torch.Tensor,  # [rows] int32, at least 1
    scale: float,
    workspace: DecodeWorkspace,
    splits: int | None = None,
    window: int | None = None,
    block: int = 64,
    num_warps: int | None = None,
    num_stages: int | None = None,
    out: torch.Tensor | None = None,
    pdl: bool = False,
    prefix: PrefixPartials | None = None,
) -> torch.Tensor:  # [rows, heads, head_dim]
    """One query a row over its context_len keys; those that `prefix` has attended to are not read. Not with `window`.

    With `pdl` the kernel launched last before must be that of `prefix`: this one starts beside it.
    """
    rows, heads, head_dim = query.shape
    page, kv_heads = key_cache.shape[1], key_cache.shape[2]
    group = heads // kv_heads
    splits = choose_splits(rows, kv_heads) if splits is None else splits
    warps, stages = choose_launch(rows, kv_heads, splits)
    block = min(block, page)
    out = torch.empty_like(query) if out is None else out
    shared = (prefix.shared_len, prefix.out, prefix.lse, prefix.splits) if prefix else (None,) * 4
    _paged_decode[(kv_heads, splits, rows)](
        query, key_cache, value_cache, out, workspace.out, workspace.lse, workspace.arrivals, block_table,
        context_len, *shared, scale, key_cache.stride(0), key_cache.stride(1), block_table.stride(0),
        GROUP=group,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        ROWS=max(16, triton.next_power_of_2(group)),
        PAGE=page,
        BLOCK=block,
        SPLITS=splits,
        MIN_CHUNK=block,
        WINDOW=window or 0,
        MAX_PREFIX_SPLITS=MAX_PREFIX_SPLITS,
        PREFIX_BLOCK=prefix.block if prefix else 0,
        num_warps=num_warps or warps,
        num_stages=num_stages or stages,
        **launch_options(pdl),
    )  # fmt: skip
    return out
