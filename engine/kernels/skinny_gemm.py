"""Matrix products with few rows (2 to 128): the weights stream through once, the rows stay in the L2 cache.

At these sizes the product is bound by reading the weights, so what counts is bytes in flight on every multiprocessor:
small tiles, deep pipelines, and a split along k (float32 partials, added in order by the kernel that reads them: the
norm or the rotary kernel) where the matrix has too few rows of tiles to fill the chip. Weights can be the left
operand (`swap`), which makes full use of Hopper's 64-row matrix instruction whatever the number of rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kernels.common import (
    ceil_div,
    launch_options,
    let_next_kernel_start,
    wait_for_previous_kernel,
)


class SkinnyConfig(NamedTuple):
    """How one product is tiled; `splits` partial sums along k."""

    block_n: int
    block_k: int
    splits: int = 1
    swap: bool = True
    num_warps: int = 4
    num_stages: int = 4


@triton.jit
def _product(x_tile, w_tile, acc, SWAP: tl.constexpr):
    if SWAP:
        acc = tl.dot(w_tile, tl.trans(x_tile), acc, input_precision="ieee")
    else:
        acc = tl.dot(x_tile, tl.trans(w_tile), acc, input_precision="ieee")
    return acc


@triton.jit(do_not_specialize=["rows"])
def _skinny_gemm(
    x,
    weight,
    out,
    rows,
    outputs,
    size,
    per_split,
    x_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SWAP: tl.constexpr,
    SILU: tl.constexpr,
    PDL: tl.constexpr,
):
    split = tl.program_id(1)
    m = tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_K)
    begin = split * per_split
    end = tl.minimum(begin + per_split, size)
    x_at = x + m[:, None] * x_stride + column[None, :]
    w_at = weight + n.to(tl.int64)[:, None] * size + column[None, :]
    up_at = w_at + outputs.to(tl.int64) * size
    real_rows, real_outputs = (m < rows)[:, None], (n < outputs)[:, None]
    if SWAP:
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    up_acc = acc
    let_next_kernel_start(PDL)
    wait_for_previous_kernel(PDL)
    for start in range(begin, end, BLOCK_K):
        inside = (start + column < end)[None, :]
        w_tile = tl.load(w_at + start, mask=real_outputs & inside, other=0.0, eviction_policy="evict_first")
        x_tile = tl.load(x_at + start, mask=real_rows & inside, other=0.0, eviction_policy="evict_last")
        acc = _product(x_tile, w_tile, acc, SWAP)
        if SILU:
            up_tile = tl.load(up_at + start, mask=real_outputs & inside, other=0.0, eviction_policy="evict_first")
            up_acc = _product(x_tile, up_tile, up_acc, SWAP)
    dtype: tl.constexpr = out.dtype.element_ty
    if SILU:
        gate = acc.to(dtype).to(tl.float32)
        gate = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
        acc = gate * up_acc.to(dtype).to(tl.float32)
    if SWAP:
        at = out + split.to(tl.int64) * rows * outputs + m[None, :] * outputs + n[:, None]
        tl.store(at, acc.to(dtype), mask=(m < rows)[None, :] & (n < outputs)[:, None])
    else:
        at = out + split.to(tl.int64) * rows * outputs + m[:, None] * outputs + n[None, :]
        tl.store(at, acc.to(dtype), mask=(m < rows)[:, None] & (n < outputs)[None, :])


def skinny_gemm(
    x: torch.Tensor,  # [rows, size]
    weight: torch.Tensor,  # [outputs, size], or [2 * outputs, size] gate first with silu
    config: SkinnyConfig,
    silu: bool = False,
    pdl: bool = False,
) -> torch.Tensor:
    """x @ weight.T: [rows, outputs] in x's dtype, or with splits > 1 float32 partials [splits, rows, outputs]."""
    rows, size = x.shape
    outputs = weight.shape[0] // 2 if silu else weight.shape[0]
    per_split = ceil_div(ceil_div(size, config.block_k), config.splits) * config.block_k
    splits = ceil_div(size, per_split)
    if splits > 1:
        out = torch.empty((splits, rows, outputs), dtype=torch.float32, device=x.device)
    else:
        out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    _skinny_gemm[(ceil_div(outputs, config.block_n), splits)](
        x,
        weight,
        out,
        rows,
        outputs,
        size,
        per_split,
        x.stride(0),
        BLOCK_M=max(16, triton.next_power_of_2(rows)),
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        SWAP=config.swap,
        SILU=silu,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **launch_options(pdl),
    )
    return out
