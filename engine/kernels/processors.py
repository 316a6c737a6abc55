"""Changes of many rows' logits at once: grammar masks, and penalties from counts of tokens that stay on the device.

The same changes as `engine.sampling.processors` makes row by row. Counts are one int32 a slot and token: twice the
times it was sampled, plus one if the prompt holds it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import ceil_div

BLOCK = 4096
SAMPLED_ONCE = 2
IN_PROMPT = 1


@triton.jit(do_not_specialize=["words"])
def _apply_masks(logits, numbers, masks, vocab, stride, words, BLOCK: tl.constexpr):
    index = tl.program_id(0)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(numbers + index).to(tl.int64)
    word = tl.load(masks + index * words + token // 32, mask=token // 32 < words, other=0)
    forbidden = ((word >> (token % 32)) & 1) == 0
    tl.store(logits + row * stride + token, float("-inf"), mask=forbidden & (token < vocab))


def apply_masks(
    logits: torch.Tensor,  # [rows, vocab] float32, changed in place
    numbers: torch.Tensor,  # [masked] int32: which row each mask is of
    masks: torch.Tensor,  # [masked, words] int32: bit i of word w is set where token 32 * w + i is allowed
) -> None:
    """Forbid the tokens whose bit is not set, and those past the masks' end."""
    vocab = logits.shape[1]
    _apply_masks[(masks.shape[0], ceil_div(vocab, BLOCK))](
        logits, numbers, masks, vocab, logits.stride(0), masks.shape[1], BLOCK=BLOCK, num_warps=8
    )


@triton.jit
def _penalise(
    logits,
    counts,
    slots,
    repetition,
    presence,
    frequency,
    vocab,
    stride,
    counts_stride,
    dummy,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < dummy:
        count = tl.load(counts + slot * counts_stride + token, mask=token < vocab, other=0)
        x = tl.load(logits + row * stride + token, mask=count > 0, other=0.0)
        factor = tl.load(repetition + row)
        x = tl.where(x > 0.0, tl.div_rn(x, factor), x * factor)
        sampled = count >> 1
        less = sampled.to(tl.float32) * tl.load(frequency + row) + tl.load(presence + row)
        tl.store(logits + row * stride + token, tl.where(sampled > 0, x - less, x), mask=count > 0)


def penalise(
    logits: torch.Tensor,  # [rows, vocab] float32, changed in place
    counts: torch.Tensor,  # [slots, vocab] int32
    slots: torch.Tensor,  # [rows] int32; rows of the last slot, the dummy, stay as they are
    repetition: torch.Tensor,  # [rows] float32; 1 is off
    presence: torch.Tensor,  # [rows] float32
    frequency: torch.Tensor,  # [rows] float32
) -> None:
    """Repetition over prompt and output; presence and frequency over the output."""
    rows, vocab = logits.shape
    _penalise[(rows, ceil_div(vocab, BLOCK))](
        logits,
        counts,
        slots,
        repetition,
        presence,
        frequency,
        vocab,
        logits.stride(0),
        counts.stride(0),
        counts.shape[0] - 1,
        BLOCK=BLOCK,
        num_warps=8,
        enable_fp_fusion=False,  # rounded as the row by row code rounds
    )


@triton.jit(do_not_specialize=["rows"])
def _count_sampled(counts, slots, sampled, rows, counts_stride, dummy, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row, mask=row < rows, other=dummy).to(tl.int64)
    token = tl.load(sampled + row, mask=row < rows, other=-1)
    place = counts + slot * counts_stride + token
    counted = (slot < dummy) & (token >= 0)
    tl.store(place, tl.load(place, mask=counted, other=0) + 2, mask=counted)


def count_sampled(
    counts: torch.Tensor,  # [slots, vocab] int32, changed
    slots: torch.Tensor,  # [rows] int32, none twice but the last, the dummy, for which nothing is counted
    sampled: torch.Tensor,  # [rows] int32; negative: nothing was sampled
) -> None:
    """One more of each row's token."""
    rows = slots.shape[0]
    _count_sampled[(ceil_div(rows, 128),)](
        counts, slots, sampled, rows, counts.stride(0), counts.shape[0] - 1, BLOCK=128, num_warps=4
    )
