"""RMSNorm, alone and fused with the residual addition (and with the sum of a split-K product's partials)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import launch_options, let_next_kernel_start, next_power_of_two, wait_for_previous_kernel


@triton.jit
def _add_rms_norm(
    x,
    residual,
    weight,
    out,
    eps,
    x_row_stride,
    x_split_stride,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    wait_for_previous_kernel(PDL)
    let_next_kernel_start(PDL)
    total = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        values = tl.load(x + split * x_split_stride + row * x_row_stride + columns, mask=inside, other=0.0)
        total += values.to(tl.float32)
    if HAS_RESIDUAL:
        total += tl.load(residual + row * SIZE + columns, mask=inside, other=0.0).to(tl.float32)
        # The stream is kept in the model's dtype; the norm sees what is kept.
        total = total.to(residual.dtype.element_ty).to(tl.float32)
        tl.store(residual + row * SIZE + columns, total.to(residual.dtype.element_ty), mask=inside)
    variance = tl.sum(total * total, 0) / SIZE
    normed = (total * (1.0 / tl.sqrt(variance + eps))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * SIZE + columns, (normed * scale).to(out.dtype.element_ty), mask=inside)


def _launch(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor, pdl: bool
) -> None:
    splits, rows, size = (x.shape[0], x.shape[1], x.shape[2]) if x.dim() == 3 else (1, x.shape[0], x.shape[1])
    block = next_power_of_two(size)
    _add_rms_norm[(rows,)](
        x,
        residual if residual is not None else x,
        weight,
        out,
        eps,
        x.stride(-2),
        x.stride(0) if x.dim() == 3 else 0,
        SIZE=size,
        BLOCK=block,
        SPLITS=splits,
        HAS_RESIDUAL=residual is not None,
        num_warps=min(16, max(1, block // 512)),
        **launch_options(pdl),
    )


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor | None = None, pdl: bool = False
) -> torch.Tensor:
    """x [rows, size] -> the same shape, normalised in float32 and scaled."""
    out = x.new_empty(x.shape) if out is None else out
    _launch(x, None, weight, eps, out, pdl)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, pdl: bool = False
) -> torch.Tensor:
    """residual [rows, size] += x, in place; returns the norm of the sum.

    x is [rows, size], or float32 partial sums [splits, rows, size] that are added up first, always in the same order.
    """
    out = residual.new_empty(residual.shape)
    _launch(x, residual, weight, eps, out, pdl)
    return out
