"""The tilings that shapes get: they fit a multiprocessor and cover the matrix."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="the kernels' configurations come with Triton")

from engine.kernels.stream_config import StreamConfig
from engine.models.config import ModelConfig, RopeConfig
from engine.runner.product_table import MULTIPROCESSORS, SHARED_BYTES, product_table

SHAPES = {  # hidden, intermediate, heads, kv_heads, head_dim
    "0.5b": (896, 4864, 14, 2, 64),
    "0.6b": (1024, 3072, 16, 8, 128),
    "1.5b": (1536, 8960, 12, 2, 128),
    "3b": (2048, 11008, 16, 2, 128),
    "7b": (3584, 18944, 28, 4, 128),
    "7b-v1": (4096, 11008, 32, 32, 128),
    "8b": (4096, 12288, 32, 8, 128),
    "14b": (5120, 13824, 40, 8, 128),
    "32b": (5120, 27648, 40, 8, 128),
}


def model(name: str) -> ModelConfig:
    hidden, inner, heads, kv_heads, head_dim = SHAPES[name]
    return ModelConfig(
        architecture="qwen2",
        hidden_size=hidden,
        num_layers=2,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=inner,
        vocab_size=1000,
        rms_norm_eps=1e-6,
        rope=RopeConfig(1e6),
        max_position=1024,
        qkv_bias=True,
        qk_norm=False,
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize("hopper", [False, True])
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_streamed_tiling_fits(name: str, hopper: bool) -> None:
    config = model(name)
    sizes = {
        "qkv": (config.qkv_width, config.hidden_size),
        "o": (config.hidden_size, config.num_heads * config.head_dim),
        "gate_up": (config.intermediate_size, config.hidden_size),
        "down": (config.hidden_size, config.intermediate_size),
    }
    for kind, tilings in product_table(config, hopper).items():
        assert list(tilings) == sorted(tilings)
        for rows, tiling in tilings.items():
            if not isinstance(tiling, StreamConfig):
                continue
            outputs, size = sizes[kind]
            silu = kind == "gate_up"
            assert hopper and tiling.stages >= 2 and rows <= 128
            assert tiling.splits == 1 or not silu
            assert size // tiling.splits >= min(512, size)
            programs = -(-outputs // (tiling.block_n + tiling.extra)) * tiling.splits
            resident = SHARED_BYTES // tiling.shared_bytes(rows, silu)
            assert resident >= 1
            assert programs <= resident * MULTIPROCESSORS or tiling.stages == 2


def test_what_was_measured() -> None:
    """The choices for Qwen2.5-7B that decode steps were measured with."""
    table = product_table(model("7b"), hopper=True)
    assert table["gate_up"][64] == StreamConfig(64, 64, 1, 4, 4, wide=True)
    assert table["gate_up"][96] == StreamConfig(128, 64, 1, 8, 4, wide=True)
    assert table["gate_up"][16] == StreamConfig(64, 128, 1, 4, 2, few_rows=True)
    assert table["down"][8] == StreamConfig(64, 128, 7, 4, 4, few_rows=True)
    assert table["down"][64] == StreamConfig(64, 128, 4, 4, 3)
    assert table["o"][64] == StreamConfig(64, 64, 2, 4, 12)
    assert table["qkv"][64] == StreamConfig(64, 128, 3, 4, 3)


def test_other_tritons_do_without_the_experimental_language() -> None:
    """The CUDA build is imported, and other products work, where Gluon's functions are different ones."""
    script = "import sys, engine.runner.cuda_build; sys.exit('triton.experimental.gluon' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 0
