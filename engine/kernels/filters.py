"""top_k, top_p and min_p as one threshold a row, without sorting: the same thresholds as `engine.sampling.filters`.

Floats are mapped to unsigned words of the same order, and the largest word that still keeps enough tokens (top_k) or
enough probability (top_p) is built bit by bit, most significant first. Nearly always among few candidates: each lane
of a block remembers the best token it meets; as many tokens as are wanted, one of each of the best lanes, have at
least the logit of the worst of these, so what has less is out. Where too many are left, or too little probability,
each bit costs a pass over the row instead.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import next_power_of_two

BLOCK = 8192
CANDIDATES = 2048
"""Tokens of one row that the search goes on with; for top_p alone, about a quarter of them."""


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
def _best_of_lanes(row, vocab, BLOCK: tl.constexpr):
    """The largest of the tokens that are BLOCK apart, for each of the first BLOCK."""
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        best = tl.maximum(best, x)
    return best


@triton.jit
def _largest(words, weights, enough, BITS: tl.constexpr):
    """The largest word such that the weights of those that reach it sum up to `enough`; 0 where they do not."""
    limit = (enough * 0).to(tl.uint32)
    for step in range(BITS):
        candidate = limit | (tl.full([], 0x80000000, tl.uint32) >> step)
        if tl.sum(tl.where(words >= candidate, weights, 0.0), 0) >= enough:
            limit = candidate
    return limit


@triton.jit
def _gather(row, least, vocab, top, rate, kept, CANDIDATES: tl.constexpr, BLOCK: tl.constexpr):
    """Write the first CANDIDATES tokens that reach `least` to `kept`. How many do, and the mass of all tokens."""
    found = (vocab * 0).to(tl.int32)
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        mass += tl.where(token < vocab, tl.exp((x - top) * rate), 0.0)
        # Where few tokens are allowed at all, `least` is no more than the -inf of the others.
        keep = ((_ordered(x) >= least) & (x > float("-inf")) & (token < vocab)).to(tl.int32)
        here = tl.sum(keep, 0)
        if here > 0:
            place = found + tl.cumsum(keep, 0) - 1
            tl.store(kept + place, x, mask=(keep > 0) & (place < CANDIDATES))
            found += here
    return found, tl.sum(mass, 0)


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
def _thresholds(
    logits,
    numbers,
    top_k,
    top_p,
    min_p,
    temperature,
    threshold,
    kept,
    vocab,
    stride,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    index = tl.program_id(0)
    number = tl.load(numbers + index)
    row = logits + number.to(tl.int64) * stride
    best = _best_of_lanes(row, vocab, BLOCK)
    top = tl.max(best, 0)
    warmth = tl.load(temperature + index)
    rate = 1.0 / warmth
    wanted, share = tl.load(top_k + index), tl.load(top_p + index)
    limited = (wanted > 0) & (wanted < vocab)
    limit = (wanted * 0).to(tl.uint32)
    if limited | (share < 1.0):
        aim = tl.where(limited, wanted, CANDIDATES // 4)
        least = _largest(_ordered(best), 1.0, aim, BITS)
        mine = kept + index.to(tl.int64) * CANDIDATES
        found, mass = _gather(row, least, vocab, top, rate, mine, CANDIDATES, BLOCK)
        tl.debug_barrier()  # what some threads have stored, others load
        place = tl.arange(0, CANDIDATES)
        x = tl.load(mine + place, mask=place < found, other=float("-inf"), cache_modifier=".cg")
        words = tl.where(place < found, _ordered(x), 0)
        if limited:
            limit = _largest(words, 1.0, wanted, BITS)
        weights = tl.where((place < found) & (words >= limit), tl.exp((x - top) * rate), 0.0)
        among = tl.sum(weights, 0)
        enough = share * tl.where(limited, among, mass)
        if (found > CANDIDATES) | ((share < 1.0) & (among < enough)):
            limit = _search_row(row, vocab, wanted, share, top, rate, BITS, BLOCK)
        elif share < 1.0:
            limit = tl.maximum(limit, _largest(words, weights, enough, BITS))
        # The likeliest token is kept whatever rounding does to the sums.
        limit = tl.minimum(limit, _ordered(top))
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
    threshold = torch.full((rows,), float("-inf"), dtype=torch.float32, device=logits.device)
    kept = torch.empty((numbers.shape[0], candidates), dtype=torch.float32, device=logits.device)
    _thresholds[(numbers.shape[0],)](
        logits,
        numbers,
        top_k,
        top_p,
        min_p,
        temperature,
        threshold,
        kept,
        vocab,
        logits.stride(0),
        BITS=16 if logits.dtype == torch.bfloat16 else 32,
        BLOCK=min(BLOCK, next_power_of_two(vocab)),
        CANDIDATES=candidates,
        num_warps=16,
    )
    return threshold
