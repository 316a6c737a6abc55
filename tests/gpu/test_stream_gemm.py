"""The streaming product on Hopper against float32: ragged rows, SwiGLU, partial sums, odd sizes, fp16."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")

from engine.kernels import reference
from engine.kernels.norms import add_rms_norm
from engine.kernels.stream_config import StreamConfig
from engine.kernels.stream_gemm import stream_gemm
from tests.support.paged import relative_error

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9, reason="Hopper only"
)

ROWS = [1, 3, 8, 17, 33, 64, 100, 128]
CONFIGS = [
    StreamConfig(64),
    StreamConfig(64, 32, 1, 4, 7),
    StreamConfig(64, 128, 1, 4, 2),
    StreamConfig(128, 64, 1, 4, 3),
    StreamConfig(128, 32, 1, 8, 4),
    StreamConfig(64, 128, 1, 4, 3, few_rows=True),
    StreamConfig(64, 64, 1, 4, 5, few_rows=True),
]
WIDE = [
    StreamConfig(64, 64, 1, 4, 3, wide=True),
    StreamConfig(128, 64, 1, 8, 3, wide=True),
    StreamConfig(64, 64, 1, 4, 2, few_rows=True, wide=True),
]


def random(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype)


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_tiling(config: StreamConfig, dtype: torch.dtype, pdl: bool) -> None:
    """Outputs and depths that the tiles do not divide; fewer blocks than stages."""
    for outputs, size in ((64, 64), (1000, 704), (4608, 3584)):
        weight = random(outputs, size, seed=1, dtype=dtype) * size**-0.5
        for rows in ROWS:
            x = random(rows, size, seed=rows, dtype=dtype)
            out = stream_gemm(x, weight, config, pdl=pdl)
            assert out.shape == (rows, outputs) and out.dtype == dtype
            assert relative_error(out, x.float() @ weight.float().T) < 5e-3


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("config", [*CONFIGS, *WIDE])
def test_swiglu(config: StreamConfig, pdl: bool) -> None:
    for inner, size in ((72, 64), (1000, 704), (4864, 896)):
        weight = random(2 * inner, size, seed=2) * size**-0.5
        for rows in ROWS:
            x = random(rows, size, seed=rows)
            out = stream_gemm(x, weight, config, silu=True, pdl=pdl)
            assert out.shape == (rows, inner)
            assert relative_error(out, reference.silu_mul(x.float() @ weight.float().T)) < 1e-2


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("splits", [2, 5, 9])
@pytest.mark.parametrize("config", CONFIGS)
def test_partial_sums(config: StreamConfig, splits: int, pdl: bool) -> None:
    """The parts add up, also where the last is shorter than the others."""
    config = config._replace(splits=splits)
    for outputs, size in ((1000, 704), (3584, 18944)):
        weight = random(outputs, size, seed=3) * size**-0.5
        for rows in ROWS:
            x = random(rows, size, seed=rows)
            parts = stream_gemm(x, weight, config, pdl=pdl)
            assert parts.dtype == torch.float32 and parts.shape[1:] == (rows, outputs)
            assert relative_error(parts.sum(0), x.float() @ weight.float().T) < 1e-3


def test_chain_of_overlapping_kernels() -> None:
    """Each product reads what the norm before it wrote, however early its weights were asked for."""
    hidden, layers, rows = 1024, 12, 33
    weights = [random(hidden, hidden, seed=seed) * hidden**-0.5 for seed in range(layers)]
    scale = torch.ones(hidden, dtype=torch.bfloat16, device="cuda")
    config, start = StreamConfig(64, 64, 2, 4, 4), random(rows, hidden, seed=99)
    residual, normed = torch.empty_like(start), torch.empty_like(start)

    def run() -> None:
        residual.copy_(start)
        x = start
        for weight in weights:
            x = add_rms_norm(stream_gemm(x, weight, config, pdl=True), residual, scale, 1e-6, pdl=True)
        normed.copy_(x)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    exact, x = start.clone(), start
    for weight in weights:
        x = add_rms_norm((x.float() @ weight.float().T)[None], exact, scale, 1e-6)
    for _ in range(50):
        normed.zero_()
        graph.replay()
        assert relative_error(normed, x) < 2e-2
