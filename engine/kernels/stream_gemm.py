"""Matrix products with 8 to 128 rows on Hopper, whose weights are on their way before the previous kernel has ended.

out[rows, outputs] = x[rows, size] @ weight[outputs, size].T, a tile of `block_n` outputs (with SwiGLU: as many gates
and as many ups) and one of `splits` parts of `size` a program. The weights are the left operand, as Hopper's matrix
instruction takes 64 rows of it whatever the number of columns; x, padded to 8-128 rows, is the right one.

A ring of `stages` in shared memory, [block_n, block_k] of weights and [padded rows, block_k] of x each, is filled by
the tensor memory accelerator. One mbarrier a stage counts both: a single arrival that expects all bytes of the stage,
weights and x, so that they may be asked for at different times. All stages' weights are asked for at once, before
griddepcontrol.wait: they do not depend on the previous kernel, so the memory stays busy while that kernel (a norm,
attention) ends; x follows after the wait. Block k is multiplied while block k - 1's product completes, whose stage is
then free for block k - 1 + stages. Reads beyond the matrices give zeros and count as full bytes.

A product is read fastest when all of its programs are resident at once: then none starts late, and all share the
memory's bandwidth evenly, whatever their number per multiprocessor. So shared memory a program (`shared_bytes`)
decides: three programs fit with 75 KB each, two with 113 KB, and so may the next product's first programs.

Sources: "PTX ISA", sections on wgmma, mbarrier, cp.async.bulk.tensor and griddepcontrol; Triton's Gluon language.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from engine.kernels.common import ceil_div, launch_options, next_power_of_two

MOST_ROWS = 128


class StreamConfig(NamedTuple):
    """How one product is tiled; `block_n` is a multiple of 16 * num_warps, `block_k` 32, 64 or 128."""

    block_n: int
    block_k: int = 64
    splits: int = 1
    num_warps: int = 4
    stages: int = 4

    def shared_bytes(self, rows: int, silu: bool = False) -> int:
        """Shared memory of a program for 16-bit weights, without the mbarriers."""
        return self.stages * self.block_k * 2 * (self.block_n * (2 if silu else 1) + padded(rows))


def padded(rows: int) -> int:
    """Rows of x in shared memory: the matrix instruction's columns."""
    return max(8, next_power_of_two(rows))


@gluon.jit
def _load_weights(
    weight, ring, ready, stage, row, outputs, column, wanted, X_BYTES: gl.constexpr, SILU: gl.constexpr
):
    """Announce the stage's bytes, those of x too, and ask for its weights; nothing unless `wanted`."""
    parts: gl.constexpr = 2 if SILU else 1
    full = ready.index(stage)
    mbarrier.expect(full, parts * weight.block_type.nbytes + X_BYTES, pred=wanted)
    tma.async_copy_global_to_shared(weight, [row, column], full, ring.index(stage * parts), pred=wanted)
    if SILU:
        up_row = outputs + row
        tma.async_copy_global_to_shared(weight, [up_row, column], full, ring.index(stage * parts + 1), pred=wanted)


@gluon.jit
def _store(acc, up_acc, out, row, rows, outputs, SILU: gl.constexpr):
    """acc [outputs of the program, padded rows], or silu(acc) * up_acc, to out[rows, outputs]: 8 a thread."""
    dtype: gl.constexpr = out.dtype.element_ty
    if SILU:
        gate = acc.to(dtype).to(gl.float32)
        gate = (gate / (1.0 + gl.exp(-gate))).to(dtype).to(gl.float32)
        acc = gate * up_acc.to(dtype).to(gl.float32)
    layout: gl.constexpr = gl.BlockedLayout([8, 1], [8, 4], [1, gl.num_warps()], [0, 1])
    acc = gl.convert_layout(acc.to(dtype), layout)
    n = row + gl.arange(0, acc.shape[0], gl.SliceLayout(1, layout))
    m = gl.arange(0, acc.shape[1], gl.SliceLayout(0, layout))
    gl.store(out + m[None, :] * outputs + n[:, None], acc, mask=(m < rows)[None, :] & (n < outputs)[:, None])


@gluon.jit(do_not_specialize=["rows"])
def _stream_gemm(
    weight,
    x,
    out,
    rows,
    outputs,
    blocks,
    per_split,
    STAGES: gl.constexpr,
    SILU: gl.constexpr,
    PDL: gl.constexpr,
):
    block_n: gl.constexpr = weight.block_type.shape[0]
    block_k: gl.constexpr = weight.block_type.shape[1]
    block_m: gl.constexpr = x.block_type.shape[0]
    warps: gl.constexpr = gl.num_warps()
    parts: gl.constexpr = 2 if SILU else 1
    x_bytes: gl.constexpr = x.block_type.nbytes
    if PDL:
        gdc_launch_dependents()
    row = gl.program_id(0) * block_n
    split = gl.program_id(1)
    begin = split * per_split
    count = gl.minimum(per_split, blocks - begin)
    w_ring = gl.allocate_shared_memory(weight.dtype, [STAGES * parts, block_n, block_k], weight.layout)
    x_ring = gl.allocate_shared_memory(x.dtype, [STAGES, block_m, block_k], x.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for first in gl.static_range(STAGES):
        mbarrier.init(ready.index(first), count=1)
    fence_async_shared()
    for first in gl.static_range(STAGES):
        at = (begin + first) * block_k
        _load_weights(weight, w_ring, ready, first, row, outputs, at, first < count, x_bytes, SILU)
    if PDL:
        gdc_wait()
    for first in gl.static_range(STAGES):
        at = (begin + first) * block_k
        tma.async_copy_global_to_shared(x, [0, at], ready.index(first), x_ring.index(first), pred=first < count)

    acc_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, block_m, 16])
    acc = gl.zeros([block_n, block_m], gl.float32, acc_layout)
    up_acc = gl.zeros([block_n, block_m], gl.float32, acc_layout)
    for block in range(count):
        stage = block % STAGES
        mbarrier.wait(ready.index(stage), (block // STAGES) & 1)
        right = x_ring.index(stage).permute((1, 0))
        acc = warpgroup_mma(w_ring.index(stage * parts), right, acc, is_async=True)
        if SILU:
            up_acc = warpgroup_mma(w_ring.index(stage * parts + 1), right, up_acc, is_async=True)
            acc, up_acc = warpgroup_mma_wait(2, deps=(acc, up_acc))
        else:
            acc = warpgroup_mma_wait(1, deps=(acc,))
        # The block before this one has been multiplied by every warp: its stage is free.
        gl.thread_barrier()
        following = block - 1 + STAGES
        wanted = (block > 0) & (following < count)
        free = following % STAGES
        column = (begin + following) * block_k
        _load_weights(weight, w_ring, ready, free, row, outputs, column, wanted, x_bytes, SILU)
        tma.async_copy_global_to_shared(x, [0, column], ready.index(free), x_ring.index(free), pred=wanted)
    if SILU:
        acc, up_acc = warpgroup_mma_wait(0, deps=(acc, up_acc))
    else:
        acc = warpgroup_mma_wait(0, deps=(acc,))
    _store(acc, up_acc, out + split.to(gl.int64) * rows * outputs, row, rows, outputs, SILU)


def _descriptor(matrix: torch.Tensor, block_rows: int, block_k: int) -> TensorDescriptor:
    """How the accelerator reads tiles of a 16-bit matrix: in the order in which the matrix instruction wants them."""
    layout = gl.NVMMASharedLayout(swizzle_byte_width=min(128, 2 * block_k), element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(matrix, [block_rows, block_k], layout)


def stream_gemm(
    x: torch.Tensor,  # [rows, size], at most 128 rows
    weight: torch.Tensor,  # [outputs, size], or [2 * outputs, size] gate first with silu
    config: StreamConfig,
    silu: bool = False,
    pdl: bool = False,
) -> torch.Tensor:
    """x @ weight.T: [rows, outputs] in x's dtype, or with splits > 1 float32 partials [splits, rows, outputs].

    bf16 or fp16, `size` and x's row stride multiples of 8, both 16-byte aligned, on compute capability 9.x.
    """
    rows, size = x.shape
    outputs = weight.shape[0] // 2 if silu else weight.shape[0]
    blocks = ceil_div(size, config.block_k)
    per_split = ceil_div(blocks, config.splits)
    splits = ceil_div(blocks, per_split)
    if splits > 1:
        out = torch.empty((splits, rows, outputs), dtype=torch.float32, device=x.device)
    else:
        out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    _stream_gemm[(ceil_div(outputs, config.block_n), splits)](
        _descriptor(weight, config.block_n, config.block_k),
        _descriptor(x, padded(rows), config.block_k),
        out,
        rows,
        outputs,
        blocks,
        per_split,
        STAGES=config.stages,
        SILU=silu,
        num_warps=config.num_warps,
        **launch_options(pdl),
    )
    return out
