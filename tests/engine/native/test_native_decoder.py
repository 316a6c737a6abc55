"""The whole native step against the plain decoder: every architecture's features, ragged steps, any chunking."""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec
import pytest
import torch

from engine.attention.base import AttentionMetadata
from engine.attention.reference import ReferenceAttention
from engine.models.config import ModelConfig, RopeConfig
from engine.models.decoder import Decoder
from engine.models.layers import TorchOps
from engine.models.rope import RotaryStep, rope_tables
from engine.models.weights import LayerWeights, ModelWeights, load_weights
from engine.native import build_decoder
from engine.native.decoder import NativeDecoder, refusal
from engine.native.library import Native

BLOCK_SIZE, NUM_BLOCKS = 16, 64

QWEN2 = ModelConfig(
    architecture="qwen2",
    hidden_size=96,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=160,
    vocab_size=203,
    rms_norm_eps=1e-6,
    rope=RopeConfig(theta=10000.0),
    max_position=512,
    qkv_bias=True,
    qk_norm=False,
    tie_word_embeddings=True,
)
QWEN3 = msgspec.structs.replace(
    QWEN2, architecture="qwen3", qkv_bias=False, qk_norm=True, head_dim=64, tie_word_embeddings=False
)
QWEN1 = msgspec.structs.replace(QWEN2, architecture="qwen", num_kv_heads=6)
WINDOWED = msgspec.structs.replace(QWEN2, layer_windows=(None, 9, 9))
MODELS = {"qwen2": QWEN2, "qwen3": QWEN3, "qwen1": QWEN1, "windowed": WINDOWED}


def random_weights(config: ModelConfig, dtype: torch.dtype) -> ModelWeights:
    """Large enough that every part of a layer matters; norms and biases are not trivial."""
    weights = load_weights("", config, "cpu", dtype, "dummy", seed=3)
    generator = torch.Generator().manual_seed(4)
    for layer in weights.layers:
        for name in LayerWeights.__dataclass_fields__:
            tensor = getattr(layer, name)
            if tensor is not None and tensor.dim() == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(dtype), alpha=0.3)
            elif tensor is not None:
                tensor.mul_(5)
    return weights


def step_metadata(rows: list[tuple[int, int, list[int]]]) -> AttentionMetadata:
    """Rows of (first position, tokens, block table)."""
    starts = torch.tensor([0, *torch.tensor([count for _, count, _ in rows]).cumsum(0).tolist()])
    positions = torch.cat([torch.arange(first, first + count) for first, count, _ in rows])
    slots = [table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for f, n, table in rows for p in range(f, f + n)]
    width = max(len(table) for _, _, table in rows)
    return AttentionMetadata(
        query_start=starts.to(torch.int32),
        context_len=torch.tensor([first + count for first, count, _ in rows], dtype=torch.int32),
        block_table=torch.tensor([table + [0] * (width - len(table)) for _, _, table in rows], dtype=torch.int32),
        slot_mapping=torch.tensor(slots),
        positions=positions,
        num_decode_rows=sum(count == 1 for _, count, _ in rows),
        max_query_len=max(count for _, count, _ in rows),
        max_context_len=max(first + count for first, count, _ in rows),
        block_size=BLOCK_SIZE,
    )


def rotary_step(config: ModelConfig, metadata: AttentionMetadata, logn: bool = False) -> RotaryStep:
    cos, sin = rope_tables(config, config.max_position, "cpu")
    scale = 1 + metadata.positions / 100 if logn else None
    return RotaryStep(cos[metadata.positions], sin[metadata.positions], scale)


def empty_cache(config: ModelConfig, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(
        2, config.num_layers, NUM_BLOCKS, BLOCK_SIZE, config.num_kv_heads, config.head_dim, dtype=dtype
    )


STEPS = [
    [(0, 33, [5, 9, 2])],
    [(33, 1, [5, 9, 2]), (0, 20, [7, 3])],
    [(34, 1, [5, 9, 2]), (20, 1, [7, 3]), (0, 1, [11]), (0, 70, [20, 21, 22, 23, 24])],
    [(35, 1, [5, 9, 2]), (21, 1, [7, 3]), (1, 1, [11]), (70, 1, [20, 21, 22, 23, 24])],
]


def run_steps(model: Decoder | NativeDecoder, config: ModelConfig, dtype: torch.dtype, logn: bool) -> torch.Tensor:
    """Logits of all tokens of STEPS, [tokens, vocab]."""
    cache, logits = empty_cache(config, dtype), []
    generator = torch.Generator().manual_seed(5)
    for rows in STEPS:
        metadata = step_metadata(rows)
        ids = torch.randint(config.vocab_size, metadata.positions.shape, generator=generator)
        hidden = model.forward(ids, rotary_step(config, metadata, logn), metadata, cache)
        logits.append(model.logits(hidden))
    return torch.cat(logits)


def widened(weights: ModelWeights) -> ModelWeights:
    """The same values in float32, shared with nobody."""
    layers = [
        replace(layer, **{n: None if (t := getattr(layer, n)) is None else t.float() for n in LayerWeights.__slots__})
        for layer in weights.layers
    ]
    return ModelWeights(weights.embedding.float(), layers, weights.final_norm.float(), weights.lm_head.float())


@pytest.mark.parametrize("logn", [False, True], ids=["", "logn"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_agree_with_float32(native: Native, name: str, dtype: torch.dtype, logn: bool) -> None:
    config, weights = MODELS[name], random_weights(MODELS[name], dtype)
    reference = Decoder(config, widened(weights), TorchOps(), ReferenceAttention())
    exact = run_steps(reference, config, torch.float32, logn)
    out = run_steps(NativeDecoder(config, weights, native), config, dtype, logn)
    spread = exact.max() - exact.min()
    bound = 1e-5 if dtype is torch.float32 else 2e-2
    assert (out - exact).abs().max() < bound * spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_token_is_the_same_in_any_batch_and_chunk(native: Native, dtype: torch.dtype) -> None:
    model = NativeDecoder(QWEN2, random_weights(QWEN2, dtype), native)
    ids = torch.randint(QWEN2.vocab_size, (150,), generator=torch.Generator().manual_seed(6))
    table = list(range(10, 20))

    def run(chunks: list[int]) -> torch.Tensor:
        cache, first, parts = empty_cache(QWEN2, dtype), 0, []
        for count in chunks:
            metadata = step_metadata([(first, count, table), (0, 3, [1])][: 1 + count % 2])
            tokens = torch.cat([ids[first : first + count], ids[:3]])[: len(metadata.positions)]
            parts.append(model.forward(tokens, rotary_step(QWEN2, metadata), metadata, cache)[:count])
            first += count
        return torch.cat(parts)

    whole = run([150])
    assert torch.equal(run([1] * 20 + [130]), whole)
    assert torch.equal(run([64, 5, 16, 65]), whole)


def test_kept_tokens_are_the_same_rows(native: Native) -> None:
    model = NativeDecoder(QWEN3, random_weights(QWEN3, torch.bfloat16), native)
    metadata, ids = step_metadata(STEPS[2]), torch.arange(73) % QWEN3.vocab_size
    rotary = rotary_step(QWEN3, metadata)
    caches = [empty_cache(QWEN3, torch.bfloat16) for _ in range(3)]
    whole = model.forward(ids, rotary, metadata, caches[0])
    kept = torch.tensor([72, 0, 2, 1])
    assert torch.equal(model.forward(ids, rotary, metadata, caches[1], kept=kept), whole[kept])
    assert model.forward(ids, rotary, metadata, caches[2], kept=kept[:0]).shape == (0, QWEN3.hidden_size)
    assert torch.equal(caches[0], caches[1])
    assert torch.equal(caches[0], caches[2])


def test_a_cache_of_another_dtype_is_refused(native: Native) -> None:
    model = NativeDecoder(QWEN2, random_weights(QWEN2, torch.bfloat16), native)
    metadata = step_metadata(STEPS[0])
    with pytest.raises(ValueError, match="bfloat16"):
        model.forward(
            torch.zeros(33, dtype=torch.int64),
            rotary_step(QWEN2, metadata),
            metadata,
            empty_cache(QWEN2, torch.float32),
        )


@pytest.mark.parametrize(
    ("config", "dtype", "reason"),
    [
        (QWEN2, torch.float16, "float16"),
        (msgspec.structs.replace(QWEN2, hidden_size=100), torch.bfloat16, "hidden_size 100"),
        (msgspec.structs.replace(QWEN2, intermediate_size=100), torch.bfloat16, "intermediate_size 100"),
        (msgspec.structs.replace(QWEN2, head_dim=20), torch.bfloat16, "head_dim 20"),
    ],
    ids=["float16", "hidden", "intermediate", "head_dim"],
)
def test_models_that_do_not_fit(native: Native, config: ModelConfig, dtype: torch.dtype, reason: str) -> None:
    weights = load_weights("", config, "cpu", dtype, "dummy")
    assert reason in str(refusal(config, weights, native))


def test_a_model_that_does_not_fit_is_left_to_torch(caplog: pytest.LogCaptureFixture) -> None:
    config = msgspec.structs.replace(QWEN2, hidden_size=100)
    with caplog.at_level(logging.WARNING):
        assert build_decoder(config, load_weights("", config, "cpu", torch.float32, "dummy"), 1) is None
    assert len(caplog.records) == 1
