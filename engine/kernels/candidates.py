"""Few tokens among which the thresholds of a row are: the first half of `engine.kernels.filters`.

Many programs read the row once and remember the best token of each group of neighbours. As many tokens as are wanted,
the best of the best groups, have at least the logit of the worst of these, so what has less is out, and with it whole
groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kernels.common import ceil_div, next_power_of_two

BLOCK = 8192
"""Tokens that a program looks at together."""
GROUP = tl.constexpr(64)
"""Neighbours of which the best is remembered."""


@triton.jit
def ordered(x):
    """float32 -> uint32 of the same order."""
    word = x.to(tl.uint32, bitcast=True)
    return tl.where(word >> 31 == 0, word | 0x80000000, word ^ 0xFFFFFFFF)


@triton.jit
def largest(words, weights, enough, BITS: tl.constexpr):
    """The largest word such that the weights of those that reach it sum up to `enough`; 0 where they do not."""
    limit = (enough * 0).to(tl.uint32)
    for step in range(BITS):
        candidate = limit | (tl.full([], 0x80000000, tl.uint32) >> step)
        if tl.sum(tl.where(words >= candidate, weights, 0.0), 0) >= enough:
            limit = candidate
    return limit


@triton.jit
def _survey(
    logits,
    numbers,
    temperature,
    bests,
    peaks,
    sums,
    vocab,
    stride,
    BLOCK: tl.constexpr,
):
    """Of BLOCK tokens of one row: the best of each group, the best of all, and the mass relative to that."""
    index, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = logits + tl.load(numbers + index).to(tl.int64) * stride
    group = block * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    token = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = tl.load(row + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
    best = tl.max(x, 1)
    peak = tl.max(best, 0)
    rate = 1.0 / tl.load(temperature + index)
    # Of a block without any allowed token, the difference is not a number.
    mass = tl.sum(tl.sum(tl.where(x > float("-inf"), tl.exp((x - peak) * rate), 0.0), 1), 0)
    blocks = tl.num_programs(1)
    tl.store(bests + index * blocks * (BLOCK // GROUP) + group, best)
    tl.store(peaks + index * blocks + block, peak)
    tl.store(sums + index * blocks + block, mass)


@triton.jit
def gather(
    row,
    best,
    least,
    vocab,
    chosen,
    kept,
    GROUPS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """Write tokens that reach `least` to `kept`, from the groups whose `best` does. How many do; more than CANDIDATES
    are not counted exactly. Where few tokens are allowed at all, `least` is no more than the -inf of the others."""
    good = ((ordered(best) >= least) & (best > float("-inf"))).to(tl.int32)
    many = tl.sum(good, 0)
    tl.store(chosen + tl.cumsum(good, 0) - 1, tl.arange(0, GROUPS), mask=good > 0)
    tl.debug_barrier()  # what some threads have stored, others load
    lane = tl.arange(0, CANDIDATES)
    found = tl.where(many > CANDIDATES, many, 0)
    for first in range(0, many - found, CANDIDATES // GROUP):
        number = first + lane // GROUP
        group = tl.load(chosen + number, mask=number < many, other=0, cache_modifier=".cg")
        token = group * GROUP + lane % GROUP
        x = tl.load(row + token, mask=(number < many) & (token < vocab), other=float("-inf")).to(tl.float32)
        keep = ((ordered(x) >= least) & (x > float("-inf"))).to(tl.int32)
        place = found + tl.cumsum(keep, 0) - 1
        tl.store(kept + place, x, mask=(keep > 0) & (place < CANDIDATES))
        found += tl.sum(keep, 0)
    tl.debug_barrier()
    return found


class Survey(NamedTuple):
    """What is known of each filtered row after one look at it."""

    bests: torch.Tensor  # [filtered, groups] float32: of each group of GROUP tokens
    peaks: torch.Tensor  # [filtered, blocks] float32: of each block
    sums: torch.Tensor  # [filtered, blocks] float32: exp((logit - peak) / temperature) of all its tokens
    block: int
    """Tokens of a block."""


def survey(logits: torch.Tensor, numbers: torch.Tensor, temperature: torch.Tensor) -> Survey:
    """Arguments as of `engine.kernels.filters.filter_thresholds`."""
    vocab, filtered = logits.shape[1], numbers.shape[0]
    block = min(BLOCK, max(GROUP.value, next_power_of_two(vocab)))
    blocks = ceil_div(vocab, block)
    bests, peaks, sums = (
        torch.empty((filtered, width), dtype=torch.float32, device=logits.device)
        for width in (blocks * (block // GROUP.value), blocks, blocks)
    )
    _survey[(filtered, blocks)](
        logits,
        numbers,
        temperature,
        bests,
        peaks,
        sums,
        vocab,
        logits.stride(0),
        BLOCK=block,
        num_warps=8,
    )
    return Survey(bests, peaks, sums, block)
