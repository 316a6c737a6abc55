"""What every kernel needs: launch options and the wait of programmatic dependent launch."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def wait_for_previous_kernel(PDL: tl.constexpr):
    """Hold until the kernel before this one has finished and its writes are visible."""
    if PDL:
        gdc_wait()


@triton.jit
def let_next_kernel_start(PDL: tl.constexpr):
    """Let the next kernel take free multiprocessors; it still waits for this one's writes."""
    if PDL:
        gdc_launch_dependents()


def launch_options(pdl: bool) -> dict[str, Any]:
    """Keyword arguments that a kernel with a PDL parameter is launched with."""
    return {"PDL": True, "launch_pdl": True} if pdl else {"PDL": False}


def next_power_of_two(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()


def ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
