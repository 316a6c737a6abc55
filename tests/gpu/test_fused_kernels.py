"""Fused kernels and matrix products at the sizes of real models, in bf16 and float32 sums, against plain float32."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")

from engine.kernels import reference
from engine.kernels.activation import silu_mul
from engine.kernels.norms import add_rms_norm, rms_norm
from engine.kernels.rope_store import qk_norm_rope_store
from engine.models.config import ModelConfig, RopeConfig
from engine.runner.cuda_products import Products
from engine.runner.product_table import product_table
from tests.support.paged import relative_error

CUDA = torch.device("cuda")
EPS = 1e-6
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
HEADS = [(8, 8), (8, 4), (8, 2), (10, 2), (14, 2), (16, 2), (28, 4), (32, 8)]
SIZES = [896, 1024, 1536, 2048, 2560, 3584, 4096, 5120]
"""Hidden sizes of Qwen models from 0.5B to 32B."""


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator(device=CUDA).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=CUDA).to(dtype)


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_norms(size: int, pdl: bool) -> None:
    for rows in (1, 3, 64, 257, 2000):
        x, residual, weight = random(rows, size), random(rows, size, seed=1), random(size, seed=2)
        assert relative_error(rms_norm(x, weight, EPS), reference.rms_norm(x, weight, EPS)) < 5e-3
        for splits in (1, 2, 5):
            given = x if splits == 1 else random(splits, rows, size, seed=3, dtype=torch.float32)
            kept = residual.clone()
            total = (x.float() if splits == 1 else given.sum(0)) + residual.float()
            normed = add_rms_norm(given, kept, weight, EPS, pdl)
            assert relative_error(kept, total) < 3e-3
            assert relative_error(normed, reference.rms_norm(total, weight, EPS)) < 6e-3


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("size", [3072, 4864, 11008, 18944])
def test_silu_mul(size: int, pdl: bool) -> None:
    for rows in (1, 7, 64, 1000):
        gate_up = random(rows, 2 * size, seed=rows)
        assert relative_error(silu_mul(gate_up, pdl), reference.silu_mul(gate_up)) < 5e-3


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_rope_and_store(heads: int, kv_heads: int, head_dim: int, pdl: bool) -> None:
    """With bias or QK-norm, from one sum or several, rows that only pad left out; nothing else is written."""
    tokens, blocks, page = 70, 6, 64
    width = (heads + 2 * kv_heads) * head_dim
    angles = random(4096, head_dim // 2, seed=4, dtype=torch.float32)
    cos, sin = angles.cos(), angles.sin()
    order = torch.randperm(blocks * page, generator=torch.Generator().manual_seed(0))[:tokens].to(CUDA)
    slots = torch.where(torch.arange(tokens, device=CUDA) % 5 == 3, -1, order)
    positions = torch.randint(0, 4096, (tokens,), generator=torch.Generator().manual_seed(1)).to(CUDA, torch.int32)
    for qk_norm in (False, True):
        for splits in (1, 4):
            shape = (tokens, width) if splits == 1 else (splits, tokens, width)
            qkv = random(*shape, seed=5, dtype=torch.bfloat16 if splits == 1 else torch.float32)
            bias = None if qk_norm else random(width, seed=6)
            norms = [random(head_dim, seed=s) if qk_norm else None for s in (7, 8)]
            cache = torch.full((2, blocks, page, kv_heads, head_dim), 99.0, dtype=torch.bfloat16, device=CUDA)
            query = qk_norm_rope_store(
                qkv, bias, norms[0], norms[1], EPS, cos, sin, positions, slots, cache[0], cache[1], heads, pdl
            )
            x = qkv.float() if splits == 1 else qkv.sum(0)
            x = (x + bias.float() if bias is not None else x).view(tokens, -1, head_dim)
            q, k, v = x.split((heads, kv_heads, kv_heads), 1)
            if norms[0] is not None and norms[1] is not None:
                q, k = reference.rms_norm(q, norms[0], EPS), reference.rms_norm(k, norms[1], EPS)
            q, k = (reference.rotate(t, cos[positions.long()], sin[positions.long()]) for t in (q, k))
            stored, flat = slots >= 0, cache.flatten(1, 2)
            assert relative_error(query, q) < 6e-3
            assert relative_error(flat[0, slots[stored]], k[stored]) < 6e-3
            assert relative_error(flat[1, slots[stored]], v[stored]) < 6e-3
            untouched = torch.ones(blocks * page, dtype=torch.bool, device=CUDA)
            untouched[slots[stored]] = False
            assert bool((flat[:, untouched] == 99.0).all())


def model(hidden: int, heads: int, kv_heads: int, head_dim: int, inner: int, qk_norm: bool) -> ModelConfig:
    return ModelConfig(
        architecture="qwen3" if qk_norm else "qwen2",
        hidden_size=hidden,
        num_layers=1,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=inner,
        vocab_size=20_000,
        rms_norm_eps=EPS,
        rope=RopeConfig(1e6),
        max_position=4096,
        qkv_bias=not qk_norm,
        qk_norm=qk_norm,
        tie_word_embeddings=False,
    )


MODELS = {
    "qwen2.5-7b": model(3584, 28, 4, 128, 18944, False),
    "qwen3-8b": model(4096, 32, 8, 128, 12288, True),
    "qwen3-0.6b": model(1024, 16, 8, 128, 3072, True),
    "qwen2.5-0.5b": model(896, 14, 2, 64, 4864, False),
    "qwen-7b": model(4096, 32, 32, 128, 11008, False),
}


@functools.cache
def matrices(name: str) -> dict[str, torch.Tensor]:
    config = MODELS[name]
    hidden, inner, attended = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
    shapes = {
        "qkv": (config.qkv_width, hidden),
        "o": (hidden, attended),
        "gate_up": (2 * inner, hidden),
        "down": (hidden, inner),
        "lm_head": (config.vocab_size, hidden),
    }
    return {kind: random(*shape, seed=1) * shape[1] ** -0.5 for kind, shape in shapes.items()}


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_products_of_real_models(name: str, pdl: bool) -> None:
    """Whatever kernel is taken for each number of rows; beyond the last of the table it is cuBLAS."""
    products = Products(product_table(MODELS[name], HOPPER), pdl)
    wrong = {}
    for rows in (1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128):
        for kind, weight in matrices(name).items():
            x = random(rows, weight.shape[1], seed=rows)
            exact = x.float() @ weight.float().T
            if kind == "gate_up":
                out, exact = products.swiglu(x, weight), reference.silu_mul(exact)
            elif kind == "lm_head":
                out = products.plain(x, weight)
            else:
                out = products.split_sums(x, weight, kind)
            error = relative_error(out.sum(0) if out.dim() == 3 else out, exact)
            if not error < 1e-2:
                wrong[rows, kind] = error
    assert wrong == {}


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_one_row_with_what_stands_around_it(name: str, pdl: bool) -> None:
    products, weights = Products(product_table(MODELS[name], HOPPER), pdl), matrices(name)
    hidden = MODELS[name].hidden_size
    x, norm = random(1, hidden, seed=2), random(hidden, seed=3)
    normed = reference.rms_norm(x, norm, EPS)
    for kind in ("qkv", "lm_head"):
        out = products.row(x, weights[kind], norm=norm, eps=EPS)
        assert relative_error(out, normed @ weights[kind].float().T) < 1e-2
    out = products.row(x, weights["gate_up"], norm=norm, eps=EPS, silu=True)
    assert relative_error(out, reference.silu_mul(normed @ weights["gate_up"].float().T)) < 1.5e-2
    for kind in ("o", "down"):
        given, residual = random(1, weights[kind].shape[1], seed=4), random(1, hidden, seed=5)
        total = given.float() @ weights[kind].float().T + residual.float()
        products.row(given, weights[kind], residual=residual)
        assert relative_error(residual, total) < 1e-2
