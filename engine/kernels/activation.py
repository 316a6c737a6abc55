"""SwiGLU's elementwise half: silu(gate) * up over a merged gate-up product."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import ceil_div, launch_options, let_next_kernel_start, wait_for_previous_kernel

BLOCK = 1024


@triton.jit
def _silu_mul(gate_up, out, size, BLOCK: tl.constexpr, PDL: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    wait_for_previous_kernel(PDL)
    let_next_kernel_start(PDL)
    gate = tl.load(gate_up + row * 2 * size + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=inside, other=0.0).to(tl.float32)
    # Rounded after silu as separate operations would be, so that this equals the reference models bit for bit.
    activated = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * size + columns, (activated * up).to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: torch.Tensor, pdl: bool = False) -> torch.Tensor:
    """gate_up [rows, 2 * size], gate first -> [rows, size]."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, size), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul[(rows, ceil_div(size, BLOCK))](gate_up, out, size, BLOCK=BLOCK, num_warps=4, **launch_options(pdl))
    return out
