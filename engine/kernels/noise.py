"""The sampling noise of `engine.sampling.noise` for use inside kernels: same words, same bits up to the logarithm."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _fmix(x):
    x ^= x >> 16
    x *= 0x85EBCA6B
    x ^= x >> 13
    x *= 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def gumbel(seed_low, seed_high, position, token):
    """Gumbel(0, 1) noise of int32 token ids under int32 seed words and an int32 position."""
    low = seed_low.to(tl.uint32, bitcast=True)
    high = seed_high.to(tl.uint32, bitcast=True)
    place = position.to(tl.uint32, bitcast=True)
    key0 = _fmix(_fmix(low + 0x9E3779B9) ^ high ^ place)
    key1 = _fmix((_fmix(high + 0x7F4A7C15) ^ low) + place * 0x9E3779B1)
    x = (token.to(tl.uint32, bitcast=True) ^ key0) * 0x7FEB352D
    x ^= x >> 15
    x = (x + key1) * 0x846CA68B
    x ^= x >> 16
    x *= 0x9E3779B1
    x ^= x >> 15
    # (2 * (x >> 9) + 1) / 2**24: exact in float32 and strictly between 0 and 1.
    uniform = ((x >> 9) * 2 + 1).to(tl.int32, bitcast=True).to(tl.float32) * 5.9604644775390625e-08
    return -tl.log(-tl.log(uniform))
