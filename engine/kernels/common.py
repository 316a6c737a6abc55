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


@triton.jit
def prefetch_rows(weight, n, outputs, size, begin, end, LINES: tl.constexpr):
    """Ask for rows n of a [outputs, size] matrix, columns begin .. end - 1, to be brought into the L2 cache.

    At most LINES lines of 128 bytes a row. Under programmatic dependent launch the memory works on the next weights
    while the kernel before is bound by its own latency.
    """
    per_line: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth
    column = begin + tl.arange(0, LINES) * per_line
    row = tl.minimum(n, outputs - 1).to(tl.int64)
    at = weight + row[:, None] * size + tl.minimum(column, end - 1)[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [at.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


def launch_options(pdl: bool) -> dict[str, Any]:
    """Keyword arguments that a kernel with a PDL parameter is launched with."""
    return {"PDL": True, "launch_pdl": True} if pdl else {"PDL": False}


def prefetch_lines(columns: int, itemsize: int, block_n: int) -> int:
    """Lines a row to prefetch: all of the slice, but no more than 32 KiB a program, or the cache would overflow."""
    return max(1, min(next_power_of_two(ceil_div(columns * itemsize, 128)), 256 // block_n))


def next_power_of_two(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()


def ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
