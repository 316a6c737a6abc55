"""Matrix products with 8 to 128 rows on Hopper, whose weights are on their way before the previous kernel has ended.

out[rows, outputs] = x[rows, size] @ weight[outputs, size].T, a tile of `block_n` outputs (with SwiGLU: as many gates
and as many ups) and one of `splits` parts of `size` a program. The weights are the left operand, as Hopper's matrix
instruction takes 64 rows of it whatever the number of columns; x, padded to 8-128 rows, is the right one.

A ring of `stages` in shared memory, [block_n, block_k] of weights and [padded rows, block_k] of x each, is filled by
the tensor memory accelerator. One mbarrier a stage counts both: a single arrival that expects all bytes of the stage,
weights and x, so that they may be asked for at different times. All stages' weights are asked for at once, before
griddepcontrol.wait: they do not depend on the previous kernel, so the memory stays busy while that kernel (a norm,
attention) ends; x follows after the wait. Reads beyond the matrices give zeros and count as full bytes.

With many rows, block k is multiplied while block k - 1's product completes, whose stage is then free for block
k - 1 + stages. With few (`few_rows`) a block's product is awaited before its own stage is filled again, which keeps
all stages on their way, and programs begin at different blocks, so that they do not all ask for the same part of x
at once. The order of a sum then depends on the program, but never on timing.

A product is read fastest when all of its programs are resident at once: then none starts late, and all share the
memory's bandwidth evenly, whatever their number per multiprocessor. So shared memory a program (`shared_bytes`)
decides: three programs fit with 75 KB each, two with 113 KB, and so may the next product's first programs. Where that
needs fewer programs, `wide` gives each an eighth more gates and ups, interleaved by eights in a tile of their own.

Sources: "PTX ISA", sections on wgmma, mbarrier, cp.async.bulk.tensor and griddepcontrol; Triton's Gluon language.
"""

from __future__ import annotations

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

from engine.kernels.common import ceil_div, launch_options
from engine.kernels.stream_config import StreamConfig


@gluon.jit
def _load_weights(
    weight,
    eights,
    ring,
    extra_ring,
    ready,
    stage,
    row,
    outputs,
    column,
    wanted,
    X_BYTES: gl.constexpr,
    SILU: gl.constexpr,
    EXTRA: gl.constexpr,
):
    """Announce the stage's bytes, those of x too, and ask for its weights; nothing unless `wanted`."""
    parts: gl.constexpr = 2 if SILU else 1
    block_n: gl.constexpr = weight.block_type.shape[0]
    pieces: gl.constexpr = EXTRA // 4
    full = ready.index(stage)
    mbarrier.expect(full, parts * weight.block_type.nbytes + pieces * eights.block_type.nbytes + X_BYTES, pred=wanted)
    tma.async_copy_global_to_shared(weight, [row, column], full, ring.index(stage * parts), pred=wanted)
    if SILU:
        up_row = outputs + row
        tma.async_copy_global_to_shared(weight, [up_row, column], full, ring.index(stage * parts + 1), pred=wanted)
    # Eight gates, then their ups: in the product both lie in the same thread.
    for pair in gl.static_range(pieces // 2):
        gate = row + block_n + 8 * pair
        to = stage * pieces + 2 * pair
        tma.async_copy_global_to_shared(eights, [gate, column], full, extra_ring.index(to), pred=wanted)
        tma.async_copy_global_to_shared(eights, [outputs + gate, column], full, extra_ring.index(to + 1), pred=wanted)


@gluon.jit
def _swiglu(gate, up, dtype: gl.constexpr):
    gate = gate.to(dtype).to(gl.float32)
    gate = (gate / (1.0 + gl.exp(-gate))).to(dtype).to(gl.float32)
    return gate * up.to(dtype).to(gl.float32)


@gluon.jit
def _store(acc, up_acc, out, row, rows, outputs, SILU: gl.constexpr):
    """acc [outputs of the program, padded rows], or silu(acc) * up_acc, to out[rows, outputs]: 8 a thread."""
    dtype: gl.constexpr = out.dtype.element_ty
    if SILU:
        acc = _swiglu(acc, up_acc, dtype)
    layout: gl.constexpr = gl.BlockedLayout([8, 1], [8, 4], [1, gl.num_warps()], [0, 1])
    acc = gl.convert_layout(acc.to(dtype), layout)
    n = row + gl.arange(0, acc.shape[0], gl.SliceLayout(1, layout))
    m = gl.arange(0, acc.shape[1], gl.SliceLayout(0, layout))
    gl.store(out + m[None, :] * outputs + n[:, None], acc, mask=(m < rows)[None, :] & (n < outputs)[:, None])


@gluon.jit
def _store_extra(acc, out, row, rows, outputs, EXTRA: gl.constexpr):
    """acc [64, padded rows]: eight gates and eight ups in turn, of which `EXTRA` outputs are real."""
    dtype: gl.constexpr = out.dtype.element_ty
    block_m: gl.constexpr = acc.shape[1]
    gate, up = gl.split(gl.permute(gl.reshape(acc, [4, 2, 8, block_m]), (0, 2, 3, 1)))
    values = gl.reshape(_swiglu(gate, up, dtype).to(dtype), [32, block_m])
    layout: gl.constexpr = gl.BlockedLayout([8, 1], [4, 8], [1, gl.num_warps()], [0, 1])
    values = gl.convert_layout(values, layout)
    index = gl.arange(0, 32, gl.SliceLayout(1, layout))
    m = gl.arange(0, block_m, gl.SliceLayout(0, layout))
    n = row + index
    real = (index < EXTRA) & (n < outputs)
    gl.store(out + m[None, :] * outputs + n[:, None], values, mask=(m < rows)[None, :] & real[:, None])


@gluon.jit
def _column(block, begin, count, shift, BLOCK_K: gl.constexpr):
    """Where this program's `block`-th block begins; it counts from `shift` on and around."""
    at = block + shift
    return (begin + gl.where(at >= count, at - count, at)) * BLOCK_K


@gluon.jit(do_not_specialize=["rows"])
def _stream_gemm(
    weight,
    eights,
    x,
    out,
    rows,
    outputs,
    blocks,
    per_split,
    STAGES: gl.constexpr,
    SILU: gl.constexpr,
    FEW_ROWS: gl.constexpr,
    EXTRA: gl.constexpr,
    PDL: gl.constexpr,
):
    block_n: gl.constexpr = weight.block_type.shape[0]
    block_k: gl.constexpr = weight.block_type.shape[1]
    block_m: gl.constexpr = x.block_type.shape[0]
    warps: gl.constexpr = gl.num_warps()
    parts: gl.constexpr = 2 if SILU else 1
    pieces: gl.constexpr = EXTRA // 4
    x_bytes: gl.constexpr = x.block_type.nbytes
    if PDL:
        gdc_launch_dependents()
    row = gl.program_id(0) * (block_n + EXTRA)
    begin = gl.program_id(1) * per_split
    count = gl.minimum(per_split, blocks - begin)
    shift = gl.program_id(0) * count // gl.num_programs(0) if FEW_ROWS else 0
    ring = gl.allocate_shared_memory(weight.dtype, [STAGES * parts, block_n, block_k], weight.layout)
    extra_ring = ring
    if EXTRA:  # the last stage's tile of 64 rows reaches beyond the stages
        extra_ring = gl.allocate_shared_memory(weight.dtype, [(STAGES - 1) * pieces + 8, 8, block_k], eights.layout)
    x_ring = gl.allocate_shared_memory(x.dtype, [STAGES, block_m, block_k], x.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for first in gl.static_range(STAGES):
        mbarrier.init(ready.index(first), count=1)
    fence_async_shared()
    for first in gl.static_range(STAGES):
        at, wanted = _column(first, begin, count, shift, block_k), first < count
        _load_weights(weight, eights, ring, extra_ring, ready, first, row, outputs, at, wanted, x_bytes, SILU, EXTRA)
    if PDL:
        gdc_wait()
    for first in gl.static_range(STAGES):
        at = _column(first, begin, count, shift, block_k)
        tma.async_copy_global_to_shared(x, [0, at], ready.index(first), x_ring.index(first), pred=first < count)

    acc_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, block_m, 16])
    acc = gl.zeros([block_n, block_m], gl.float32, acc_layout)
    up_acc = gl.zeros([block_n, block_m], gl.float32, acc_layout)
    extra_acc = up_acc
    if EXTRA:
        shared_by: gl.constexpr = warps // 4
        few: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, shared_by], [16, block_m // shared_by, 16])
        extra_acc = gl.zeros([64, block_m], gl.float32, few)
    for block in range(count):
        stage = block % STAGES
        mbarrier.wait(ready.index(stage), (block // STAGES) & 1)
        right = x_ring.index(stage).permute((1, 0))
        acc = warpgroup_mma(ring.index(stage * parts), right, acc, is_async=True)
        if SILU:
            up_acc = warpgroup_mma(ring.index(stage * parts + 1), right, up_acc, is_async=True)
        if EXTRA:
            left = extra_ring.index(stage * pieces)._reinterpret(weight.dtype, [64, block_k], weight.layout)
            extra_acc = warpgroup_mma(left, right, extra_acc, is_async=True)
        # Multiplied by every warp: with many rows the block before this one, else this one. Its stage is free.
        done = block if FEW_ROWS else block - 1
        acc, up_acc, extra_acc = _await(acc, up_acc, extra_acc, 0 if FEW_ROWS else 1, SILU, EXTRA)
        gl.thread_barrier()
        wanted = (done >= 0) & (done + STAGES < count)
        free = (done + STAGES) % STAGES
        at = _column(done + STAGES, begin, count, shift, block_k)
        _load_weights(weight, eights, ring, extra_ring, ready, free, row, outputs, at, wanted, x_bytes, SILU, EXTRA)
        tma.async_copy_global_to_shared(x, [0, at], ready.index(free), x_ring.index(free), pred=wanted)
    acc, up_acc, extra_acc = _await(acc, up_acc, extra_acc, 0, SILU, EXTRA)
    out += gl.program_id(1).to(gl.int64) * rows * outputs
    _store(acc, up_acc, out, row, rows, outputs, SILU)
    if EXTRA:
        _store_extra(extra_acc, out, row + block_n, rows, outputs, EXTRA)


@gluon.jit
def _await(acc, up_acc, extra_acc, blocks: gl.constexpr, SILU: gl.constexpr, EXTRA: gl.constexpr):
    """Until no more than the products of so many blocks are under way."""
    if EXTRA:
        acc, up_acc, extra_acc = warpgroup_mma_wait(3 * blocks, deps=(acc, up_acc, extra_acc))
    elif SILU:
        acc, up_acc = warpgroup_mma_wait(2 * blocks, deps=(acc, up_acc))
    else:
        acc = warpgroup_mma_wait(blocks, deps=(acc,))
    return acc, up_acc, extra_acc


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
    tiles = _descriptor(weight, config.block_n, config.block_k)
    _stream_gemm[(ceil_div(outputs, config.block_n + config.extra), splits)](
        tiles,
        _descriptor(weight, 8, config.block_k) if config.wide else tiles,
        _descriptor(x, config.padded(rows), config.block_k),
        out,
        rows,
        outputs,
        blocks,
        per_split,
        STAGES=config.stages,
        SILU=silu,
        FEW_ROWS=config.few_rows,
        EXTRA=config.extra,
        num_warps=config.num_warps,
        **launch_options(pdl),
    )
    return out
