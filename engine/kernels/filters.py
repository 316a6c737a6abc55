"""top_k, top_p and min_p as one threshold a row, without sorting: the same thresholds as `engine.sampling.filters`.

Floats are mapped to unsigned words of the same order, and the largest word that still keeps enough tokens (top_k) or
enough probability (top_p) is built bit by bit, most significant first: a pass over the row for each bit, from the L2
cache. bfloat16 logits have 16 bits, so 16 passes do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import next_power_of_two

BLOCK = 8192


@triton.jit
def _ordered(x):
    """float32 -> uint32 of the same order."""
    word = x.to(tl.uint32, bitcast=True)
    return tl.where(word >> 31 == 0, word | 0x80000000, word ^ 0xFFFFFFFF)


@triton.jit
def _kept(row, vocab, limit, top, rate, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """How many tokens have a word of at least `limit`, or with MASS the sum of their exp((x - top) * rate)."""
    acc = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        keep = (_ordered(x) >= limit) & (token < vocab)
        if MASS:
            acc += tl.where(keep, tl.exp((x - top) * rate), 0.0)
        else:
            acc += keep.to(tl.float32)
    return tl.sum(acc, 0)


@triton.jit
def _thresholds(
    logits,
    numbers,
    top_k,
    top_p,
    min_p,
    temperature,
    threshold,
    vocab,
    stride,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0)
    number = tl.load(numbers + index)
    row = logits + number.to(tl.int64) * stride
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        best = tl.maximum(best, x)
    top = tl.max(best, 0)
    warmth = tl.load(temperature + index)
    rate = 1.0 / warmth
    wanted = tl.load(top_k + index)
    limit = (wanted * 0).to(tl.uint32)
    if (wanted > 0) & (wanted < vocab):
        for step in range(BITS):
            candidate = limit | (tl.full([], 0x80000000, tl.uint32) >> step)
            if _kept(row, vocab, candidate, top, rate, False, BLOCK) >= wanted:
                limit = candidate
    share = tl.load(top_p + index)
    if share < 1.0:
        enough = share * _kept(row, vocab, limit, top, rate, True, BLOCK)
        nucleus = limit * 0
        for step in range(BITS):
            candidate = nucleus | (tl.full([], 0x80000000, tl.uint32) >> step)
            if _kept(row, vocab, candidate, top, rate, True, BLOCK) >= enough:
                nucleus = candidate
        # The likeliest token is kept whatever rounding does to the sums.
        limit = tl.minimum(tl.maximum(limit, nucleus), _ordered(top))
    word = tl.where(limit >> 31 == 1, limit ^ 0x80000000, limit ^ 0xFFFFFFFF)
    cut = tl.where(limit == 0, float("-inf"), word.to(tl.float32, bitcast=True))
    least = tl.load(min_p + index)
    if least > 0.0:
        cut = tl.maximum(cut, top + warmth * tl.log(least))
    tl.store(threshold + number, cut)


def filter_thresholds(
    logits: torch.Tensor,  # [rows, vocab]
    numbers: torch.Tensor,  # [filtered] int32: which rows have filters
    top_k: torch.Tensor,  # [filtered] int32; 0 is off
    top_p: torch.Tensor,  # [filtered] float32; 1 is off
    min_p: torch.Tensor,  # [filtered] float32; 0 is off
    temperature: torch.Tensor,  # [filtered] float32, above 0
) -> torch.Tensor:  # [rows] float32
    """The smallest logit of each row that may be sampled; -inf for rows without filters."""
    rows, vocab = logits.shape
    threshold = torch.full((rows,), float("-inf"), dtype=torch.float32, device=logits.device)
    _thresholds[(numbers.shape[0],)](
        logits,
        numbers,
        top_k,
        top_p,
        min_p,
        temperature,
        threshold,
        vocab,
        logits.stride(0),
        BITS=16 if logits.dtype == torch.bfloat16 else 32,
        BLOCK=min(BLOCK, next_power_of_two(vocab)),
        num_warps=16,
    )
    return threshold
