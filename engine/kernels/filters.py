"""top_k, top_p and min_p as one threshold a row, without sorting: the same thresholds as `engine.sampling.filters`.

Floats are mapped to unsigned words of the same order, and the largest word that still keeps enough tokens (top_k) or
enough probability (top_p) is built bit by bit, most significant first: nearly always among a few candidates
(`engine.kernels.candidates`). Where too many are left, or too little probability, each bit costs a pass over the row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.candidates import GROUP, gather, largest, ordered, survey
from engine.kernels.common import next_power_of_two

CANDIDATES = 2048
"""Tokens of one row that the search goes on with; for top_p alone, about a quarter of them."""
COARSE_BITS = tl.constexpr(16)
"""Of a bound that need not be the best one."""


@triton.jit
def _kept(row, vocab, limit, top, rate, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """How many tokens have a word of at least `limit`, or with MASS the sum of their exp((x - top) * rate)."""
    acc = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        keep = (ordered(x) >= limit) & (token < vocab)
        if MASS:
            acc += tl.where(keep, tl.exp((x - top) * rate), 0.0)
        else:
            acc += keep.to(tl.float32)
    return tl.sum(acc, 0)


@triton.jit
def _largest_of_row(row, vocab, enough, top, rate, MASS: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """As `_largest`, of the whole row, by a pass over it for each bit. Without MASS all tokens weigh 1."""
    limit = (enough * 0).to(tl.uint32)
    for step in range(BITS):
        candidate = limit | (tl.full([], 0x80000000, tl.uint32) >> step)
        if _kept(row, vocab, candidate, top, rate, MASS, BLOCK) >= enough:
            limit = candidate
    return limit


@triton.jit
def _search_row(row, vocab, wanted, share, top, rate, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """The limits of top_k and top_p without candidates."""
    limit = (wanted * 0).to(tl.uint32)
    if (wanted > 0) & (wanted < vocab):
        limit = _largest_of_row(row, vocab, wanted, top, rate, False, BITS, BLOCK)
    if share < 1.0:
        enough = share * _kept(row, vocab, limit, top, rate, True, BLOCK)
        limit = tl.maximum(limit, _largest_of_row(row, vocab, enough, top, rate, True, BITS, BLOCK))
    return limit


@triton.jit
def _limit(
    row,
    best,
    top,
    mass,
    wanted,
    share,
    rate,
    vocab,
    chosen,
    kept,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUPS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """The limit of top_k and top_p, at least one of which is on. `mass` is that of all tokens."""
    limited = (wanted > 0) & (wanted < vocab)
    least = largest(ordered(best), 1.0, tl.where(limited, wanted, CANDIDATES // 4), COARSE_BITS)
    found = gather(row, best, least, vocab, chosen, kept, GROUPS, CANDIDATES)
    place = tl.arange(0, CANDIDATES)
    x = tl.load(kept + place, mask=place < found, other=float("-inf"), cache_modifier=".cg")
    words = tl.where(place < found, ordered(x), 0)
    limit = (wanted * 0).to(tl.uint32)
    if limited:
        limit = largest(words, 1.0, wanted, BITS)
    weights = tl.where((place < found) & (words >= limit), tl.exp((x - top) * rate), 0.0)
    among = tl.sum(weights, 0)
    enough = share * tl.where(limited, among, mass)
    if (found > CANDIDATES) | ((share < 1.0) & (among < enough)):
        limit = _search_row(row, vocab, wanted, share, top, rate, BITS, BLOCK)
    elif share < 1.0:
        limit = tl.maximum(limit, largest(words, weights, enough, BITS))
    # The likeliest token is kept whatever rounding does to the sums.
    return tl.minimum(limit, ordered(top))


@triton.jit
def _thresholds(
    logits,
    numbers,
    top_k,
    top_p,
    min_p,
    temperature,
    bests,
    peaks,
    sums,
    chosen,
    kept,
    threshold,
    vocab,
    stride,
    groups,
    blocks,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    number = tl.load(numbers + index)
    row = logits + number.to(tl.int64) * stride
    warmth = tl.load(temperature + index)
    rate = 1.0 / warmth
    block = tl.arange(0, BLOCKS)
    peak = tl.load(peaks + index * blocks + block, mask=block < blocks, other=float("-inf"))
    top = tl.max(peak, 0)
    wanted, share = tl.load(top_k + index), tl.load(top_p + index)
    limit = (wanted * 0).to(tl.uint32)
    if ((wanted > 0) & (wanted < vocab)) | (share < 1.0):
        GROUPS: tl.constexpr = BLOCKS * (BLOCK // GROUP)  # noqa: N806 -- a constant of the compiler's
        group = tl.arange(0, GROUPS)
        best = tl.load(bests + index * groups + group, mask=group < groups, other=float("-inf"))
        mass = tl.load(sums + index * blocks + block, mask=block < blocks, other=0.0)
        mass = tl.sum(tl.where(peak > float("-inf"), mass * tl.exp((peak - top) * rate), 0.0), 0)
        places, mine = chosen + index * GROUPS, kept + index * CANDIDATES
        limit = _limit(
            row, best, top, mass, wanted, share, rate, vocab, places, mine, BITS, BLOCK, GROUPS, CANDIDATES
        )
    word = tl.where(limit >> 31 == 1, limit ^ 0x80000000, limit ^ 0xFFFFFFFF)
    cut = tl.where(limit == 0, float("-inf"), word.to(tl.float32, bitcast=True))
    least_share = tl.load(min_p + index)
    if least_share > 0.0:
        cut = tl.maximum(cut, top + warmth * tl.log(least_share))
    tl.store(threshold + number, cut)


def filter_thresholds(
    logits: torch.Tensor,  # [rows, vocab]
    numbers: torch.Tensor,  # [filtered] int32: which rows have filters
    top_k: torch.Tensor,  # [filtered] int32; 0 is off
    top_p: torch.Tensor,  # [filtered] float32; 1 is off
    min_p: torch.Tensor,  # [filtered] float32; 0 is off
    temperature: torch.Tensor,  # [filtered] float32, above 0
    candidates: int = CANDIDATES,
) -> torch.Tensor:  # [rows] float32
    """The smallest logit of each row that may be sampled; -inf for rows without filters."""
    rows, vocab = logits.shape
    found = survey(logits, numbers, temperature)
    filtered, blocks = found.peaks.shape
    padded = next_power_of_two(blocks)
    chosen = torch.empty((filtered, padded * found.block // GROUP.value), dtype=torch.int32, device=logits.device)
    kept = torch.empty((filtered, candidates), dtype=torch.float32, device=logits.device)
    threshold = torch.full((rows,), float("-inf"), dtype=torch.float32, device=logits.device)
    _thresholds[(filtered,)](
        logits,
        numbers,
        top_k,
        top_p,
        min_p,
        temperature,
        found.bests,
        found.peaks,
        found.sums,
        chosen,
        kept,
        threshold,
        vocab,
        logits.stride(0),
        found.bests.shape[1],
        blocks,
        BITS=16 if logits.dtype == torch.bfloat16 else 32,
        BLOCK=found.block,
        BLOCKS=padded,
        CANDIDATES=candidates,
        num_warps=16,
    )
    return threshold
