"""Our matrix products for few rows against float32."""

from __future__ import annotations

import pytest
import torch

from engine.kernels import reference
from engine.kernels.gemv import gemv
from engine.kernels.skinny_gemm import SkinnyConfig, skinny_gemm
from tests.support.paged import relative_error

EPS = 1e-6


def random(*shape: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize(("outputs", "size"), [(40, 128), (37, 200), (24, 896)])
def test_gemv_plain_and_with_norm_and_residual(
    outputs: int, size: int, device: torch.device, dtype: torch.dtype
) -> None:
    x, norm = random(1, size, device=device, dtype=dtype), random(size, device=device, dtype=dtype, seed=1)
    weight = random(outputs, size, device=device, dtype=dtype, seed=2)
    residual = random(1, outputs, device=device, dtype=dtype, seed=3)
    plain = x.float() @ weight.float().T
    assert relative_error(gemv(x, weight, block_k=128), plain) < 5e-3
    normed = reference.rms_norm(x, norm, EPS) @ weight.float().T
    assert relative_error(gemv(x, weight, norm, EPS, block_k=128), normed) < 8e-3
    total = plain + residual.float()
    assert relative_error(gemv(x, weight, residual=residual, block_k=128), total) < 5e-3
    assert relative_error(residual, total) < 5e-3, "the residual stream is updated in place"


def test_gemv_with_swiglu(device: torch.device, dtype: torch.dtype) -> None:
    x, norm = random(1, 192, device=device, dtype=dtype), random(192, device=device, dtype=dtype, seed=1)
    weight = random(2 * 30, 192, device=device, dtype=dtype, seed=2) * 0.1
    expected = reference.silu_mul(reference.rms_norm(x, norm, EPS) @ weight.float().T)
    assert relative_error(gemv(x, weight, norm, EPS, silu=True, block_k=64), expected) < 1e-2


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize(("rows", "splits"), [(2, 1), (5, 3), (17, 1), (17, 2)])
def test_skinny_gemm(rows: int, splits: int, swap: bool, device: torch.device, dtype: torch.dtype) -> None:
    x = random(rows, 200, device=device, dtype=dtype)
    weight = random(70, 200, device=device, dtype=dtype, seed=1)
    config = SkinnyConfig(64, 64, splits, swap)
    out = skinny_gemm(x, weight, config)
    assert out.dim() == (3 if splits > 1 else 2)
    total = out.sum(0) if out.dim() == 3 else out
    assert relative_error(total, x.float() @ weight.float().T) < 5e-3


@pytest.mark.parametrize("swap", [True, False])
def test_skinny_gemm_with_swiglu(swap: bool, device: torch.device, dtype: torch.dtype) -> None:
    x = random(6, 128, device=device, dtype=dtype)
    weight = random(2 * 80, 128, device=device, dtype=dtype, seed=1) * 0.1
    out = skinny_gemm(x, weight, SkinnyConfig(64, 64, 1, swap), silu=True)
    assert relative_error(out, reference.silu_mul(x.float() @ weight.float().T)) < 1e-2
