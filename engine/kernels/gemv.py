"""Matrix times one row, bound by the reading of the weights, with what stands around it in a decoder layer fused in.

Each program reads a few rows of the weight matrix once, in order. Before it: RMSNorm of the input (each program
computes the row's scale for itself, from L2). After it: the residual addition, or SwiGLU over a gate and an up row.
The weights are on their way before the previous kernel has finished.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import (
    ceil_div,
    launch_options,
    let_next_kernel_start,
    next_power_of_two,
    wait_for_previous_kernel,
)


@triton.jit
def _gemv(
    x,
    weight,
    norm_weight,
    residual,
    out,
    eps,
    outputs,
    size,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PADDED: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SILU: tl.constexpr,
    PDL: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_K)
    rows = (n < outputs)[:, None]
    at = weight + n.to(tl.int64)[:, None] * size + column[None, :]
    up = at + outputs.to(tl.int64) * size
    inside = rows & (column[None, :] < size)
    tile = tl.load(at, mask=inside, other=0.0, eviction_policy="evict_first")
    if SILU:
        up_tile = tl.load(up, mask=inside, other=0.0, eviction_policy="evict_first")
    let_next_kernel_start(PDL)
    wait_for_previous_kernel(PDL)
    rstd = 1.0
    if NORM:
        whole = tl.arange(0, PADDED)
        everything = tl.load(x + whole, mask=whole < size, other=0.0).to(tl.float32)
        rstd = 1.0 / tl.sqrt(tl.sum(everything * everything, 0) / size + eps)
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    up_acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in range(0, size, BLOCK_K):
        k = start + column
        inside = rows & (k[None, :] + BLOCK_K < size)
        following = tl.load(at + start + BLOCK_K, mask=inside, other=0.0, eviction_policy="evict_first")
        if SILU:
            up_following = tl.load(up + start + BLOCK_K, mask=inside, other=0.0, eviction_policy="evict_first")
        values = tl.load(x + k, mask=k < size, other=0.0).to(tl.float32)
        if NORM:
            values = (values * rstd).to(x.dtype.element_ty).to(tl.float32)
            values *= tl.load(norm_weight + k, mask=k < size, other=0.0).to(tl.float32)
            values = values.to(x.dtype.element_ty).to(tl.float32)
        acc += tile.to(tl.float32) * values[None, :]
        tile = following
        if SILU:
            up_acc += up_tile.to(tl.float32) * values[None, :]
            up_tile = up_following
    result = tl.sum(acc, 1)
    dtype: tl.constexpr = out.dtype.element_ty
    if SILU:
        gate = result.to(dtype).to(tl.float32)
        gate = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
        result = gate * tl.sum(up_acc, 1).to(dtype).to(tl.float32)
    if RESIDUAL:
        result = result.to(dtype).to(tl.float32) + tl.load(residual + n, mask=n < outputs, other=0.0).to(tl.float32)
    tl.store(out + n, result.to(dtype), mask=n < outputs)


def gemv(
    x: torch.Tensor,  # [1, size]
    weight: torch.Tensor,  # [outputs, size], or [2 * outputs, size] gate first with silu
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    residual: torch.Tensor | None = None,
    silu: bool = False,
    block_n: int | None = None,
    block_k: int = 512,
    num_warps: int = 4,
    pdl: bool = False,
) -> torch.Tensor:  # [1, outputs]
    """norm(x) @ weight.T, then + residual (in place, and returned) or silu(gate) * up."""
    outputs, size = weight.shape
    outputs = outputs // 2 if silu else outputs
    block_n = (4 if silu else 8) if block_n is None else block_n
    out = residual if residual is not None else torch.empty((1, outputs), dtype=x.dtype, device=x.device)
    _gemv[(ceil_div(outputs, block_n),)](
        x,
        weight,
        norm_weight if norm_weight is not None else x,
        out,
        out,
        eps,
        outputs,
        size,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        PADDED=next_power_of_two(size),
        NORM=norm_weight is not None,
        RESIDUAL=residual is not None,
        SILU=silu,
        num_warps=num_warps,
        **launch_options(pdl),
    )
    return out
