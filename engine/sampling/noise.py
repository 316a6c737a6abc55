"""Sampling noise as a pure function of (seed, position, token id): no generator, no state, the same on every device.

All arithmetic is on unsigned 32-bit words that wrap; `>>` is a logical shift. With

    fmix(x):    x ^= x >> 16;  x *= 0x85EBCA6B;  x ^= x >> 13;  x *= 0xC2B2AE35;  x ^= x >> 16

(the finaliser of MurmurHash3), low and high the two words of the 64-bit seed (two's complement), and `position` the
index in the sequence of the token being sampled (the prompt's first token has index 0):

    key0 = fmix(fmix(low + 0x9E3779B9) ^ high ^ position)
    key1 = fmix((fmix(high + 0x7F4A7C15) ^ low) + position * 0x9E3779B1)

and then for every token id

    x = (token ^ key0) * 0x7FEB352D;  x ^= x >> 15;  x = (x + key1) * 0x846CA68B;  x ^= x >> 16
    x *= 0x9E3779B1;  x ^= x >> 15
    u = (2 * (x >> 9) + 1) / 2**24          exact in float32, strictly between 0 and 1
    noise = -log(-log(u))                   Gumbel(0, 1), between -2.82 and 16.64

so that argmax(logits / temperature + noise) is a draw from softmax(logits / temperature) (the Gumbel-max trick).
"""

from __future__ import annotations

import torch

GUMBEL_MAX = 16.64
"""No noise is larger."""
GUMBEL_MIN = -2.83
"""No noise is smaller."""
_MASK = 0xFFFFFFFF


def _fmix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x85EBCA6B & _MASK
    x ^= x >> 13
    x = x * 0xC2B2AE35 & _MASK
    return x ^ x >> 16


def noise_keys(seed: int, position: int) -> tuple[int, int]:
    """(key0, key1), each an unsigned 32-bit word; `seed` is taken modulo 2**64."""
    low, high = seed & _MASK, seed >> 32 & _MASK
    key0 = _fmix(_fmix((low + 0x9E3779B9) & _MASK) ^ high ^ (position & _MASK))
    key1 = _fmix((_fmix((high + 0x7F4A7C15) & _MASK) ^ low) + position * 0x9E3779B1 & _MASK)
    return key0, key1


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def _xor_shifted(x: torch.Tensor, bits: int) -> None:
    """x ^= x >> bits, logically: torch shifts int32 arithmetically, so the copied sign bits are masked off."""
    x ^= (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def gumbel(key0: torch.Tensor, key1: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Noise, float32, of int32 `token_ids` under int32 keys that broadcast against them.

    int32 multiplication and addition wrap in torch, as the definition wants.
    """
    x = (token_ids ^ key0).mul_(_signed(0x7FEB352D))
    _xor_shifted(x, 15)
    x.add_(key1).mul_(_signed(0x846CA68B))
    _xor_shifted(x, 16)
    x.mul_(_signed(0x9E3779B1))
    _xor_shifted(x, 15)
    x = (x >> 9).bitwise_and_((1 << 23) - 1).mul_(2).add_(1)
    return x.float().mul_(2.0**-24).log_().neg_().log_().neg_()


def key_tensors(seeds_positions: list[tuple[int, int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Two int32 columns [rows, 1] for `gumbel`."""
    keys = [noise_keys(seed, position) for seed, position in seeds_positions]
    both = torch.tensor([[_signed(word) for word in pair] for pair in keys], dtype=torch.int32, device=device)
    return both[:, :1], both[:, 1:]
