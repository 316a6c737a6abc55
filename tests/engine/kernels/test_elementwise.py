"""Norm, rotary, store and activation kernels against plain float32."""

from __future__ import annotations

import pytest
import torch

from engine.kernels import reference
from engine.kernels.activation import silu_mul
from engine.kernels.norms import add_rms_norm, rms_norm
from engine.kernels.rope_store import qk_norm_rope_store
from tests.support.paged import relative_error

EPS = 1e-6


def random(*shape: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize(("rows", "size"), [(1, 64), (3, 896), (2, 3584)])
def test_rms_norm(rows: int, size: int, device: torch.device, dtype: torch.dtype) -> None:
    x, weight = (random(*shape, device=device, dtype=dtype) for shape in ((rows, size), (size,)))
    assert relative_error(rms_norm(x, weight, EPS), reference.rms_norm(x, weight, EPS)) < 5e-3


def test_add_rms_norm_keeps_the_sum(device: torch.device, dtype: torch.dtype) -> None:
    x, residual = (random(5, 896, device=device, dtype=dtype, seed=seed) for seed in (0, 1))
    weight = random(896, device=device, dtype=dtype, seed=2)
    total = x.float() + residual.float()
    normed = add_rms_norm(x, residual, weight, EPS)
    assert relative_error(residual, total) < 2e-3
    assert relative_error(normed, reference.rms_norm(total, weight, EPS)) < 5e-3


def test_add_rms_norm_sums_split_partials(device: torch.device, dtype: torch.dtype) -> None:
    partials = random(3, 4, 256, device=device, dtype=torch.float32)
    residual, weight = (random(*s, device=device, dtype=dtype, seed=1) for s in ((4, 256), (256,)))
    total = partials.sum(0) + residual.float()
    normed = add_rms_norm(partials, residual, weight, EPS)
    assert relative_error(normed, reference.rms_norm(total, weight, EPS)) < 5e-3


def test_silu_mul(device: torch.device, dtype: torch.dtype) -> None:
    gate_up = random(3, 2 * 1500, device=device, dtype=dtype)
    assert relative_error(silu_mul(gate_up), reference.silu_mul(gate_up)) < 5e-3


@pytest.mark.parametrize(("q_heads", "kv_heads", "head_dim"), [(14, 2, 64), (16, 8, 128), (5, 1, 128)])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("splits", [1, 3])
def test_qk_norm_rope_store(
    q_heads: int, kv_heads: int, head_dim: int, qk_norm: bool, splits: int, device: torch.device, dtype: torch.dtype
) -> None:
    tokens, blocks, block_size = 4, 3, 8
    width = (q_heads + 2 * kv_heads) * head_dim
    shape = (tokens, width) if splits == 1 else (splits, tokens, width)
    qkv = random(*shape, device=device, dtype=dtype if splits == 1 else torch.float32)
    bias = None if qk_norm else random(width, device=device, dtype=dtype, seed=1)
    q_weight, k_weight = (random(head_dim, device=device, dtype=dtype, seed=s) if qk_norm else None for s in (2, 3))
    angles = random(64, head_dim // 2, device=device, dtype=torch.float32, seed=4)
    cos, sin = angles.cos(), angles.sin()
    positions = torch.tensor([0, 7, 63, 1], dtype=torch.int32, device=device)
    slots = torch.tensor([8, 17, -1, 23], dtype=torch.int64, device=device)
    cache = torch.full((2, blocks, block_size, kv_heads, head_dim), 99.0, dtype=dtype, device=device)
    query = qk_norm_rope_store(
        qkv, bias, q_weight, k_weight, EPS, cos, sin, positions, slots, cache[0], cache[1], q_heads
    )

    x = qkv.float() if splits == 1 else qkv.sum(0)
    x = (x + bias.float() if bias is not None else x).view(tokens, -1, head_dim)
    q, k, v = x.split((q_heads, kv_heads, kv_heads), 1)
    if q_weight is not None and k_weight is not None:
        q, k = reference.rms_norm(q, q_weight, EPS), reference.rms_norm(k, k_weight, EPS)
    q, k = (reference.rotate(t, cos[positions.long()], sin[positions.long()]) for t in (q, k))
    assert relative_error(query, q) < 5e-3
    stored = slots >= 0
    flat = cache.flatten(1, 2)
    assert relative_error(flat[0, slots[stored]], k[stored]) < 5e-3
    assert relative_error(flat[1, slots[stored]], v[stored]) < 5e-3
    untouched = torch.ones(blocks * block_size, dtype=torch.bool, device=device)
    untouched[slots[stored]] = False
    assert bool((flat[:, untouched] == 99.0).all())
