"""Weights in the shapes that the decoder wants: q, k, v merged, gate and up merged; from safetensors or random."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import LoadFormat
from engine.memory.arena import ALIGNMENT, Arena
from engine.models.architectures import Architecture, by_name
from engine.models.checkpoint import Checkpoint
from engine.models.config import ModelConfig

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer, in the model's dtype. Matrices are [out, in]."""

    input_norm: torch.Tensor  # [hidden]
    qkv: torch.Tensor  # [(heads + 2 kv_heads) * head_dim, hidden]
    o: torch.Tensor  # [hidden, heads * head_dim]
    post_norm: torch.Tensor  # [hidden]
    gate_up: torch.Tensor  # [2 * intermediate, hidden], gate first
    down: torch.Tensor  # [hidden, intermediate]
    qkv_bias: torch.Tensor | None = None  # [(heads + 2 kv_heads) * head_dim]
    q_norm: torch.Tensor | None = None  # [head_dim]
    k_norm: torch.Tensor | None = None  # [head_dim]


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All of a model. Whoever builds a model from it may empty `layers` while packing."""

    embedding: torch.Tensor  # [vocab, hidden]
    layers: list[LayerWeights]
    final_norm: torch.Tensor  # [hidden]
    lm_head: torch.Tensor  # [vocab, hidden]; the embedding itself where they are tied


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every LayerWeights field that this model has."""
    hidden, head_dim, inner = config.hidden_size, config.head_dim, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "input_norm": (hidden,),
        "qkv": (config.qkv_width, hidden),
        "o": (hidden, config.num_heads * head_dim),
        "post_norm": (hidden,),
        "gate_up": (2 * inner, hidden),
        "down": (hidden, inner),
    }
    if config.qkv_bias:
        shapes["qkv_bias"] = (config.qkv_width,)
    if config.qk_norm:
        shapes["q_norm"] = shapes["k_norm"] = (head_dim,)
    return shapes


def weights_nbytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of all weights once loaded."""
    layer = sum(math.prod(shape) for shape in layer_shapes(config).values())
    embeddings = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    return (config.num_layers * layer + embeddings + config.hidden_size) * dtype.itemsize


def part_rows(config: ModelConfig, field: str, parts: int) -> list[int]:
    """Rows that each part of a merged tensor has in the file."""
    total = layer_shapes(config)[field][0]
    if parts == 3:
        kv = config.num_kv_heads * config.head_dim
        return [total - 2 * kv, kv, kv]
    return [total // parts] * parts


def load_weights(
    folder: str | Path,
    config: ModelConfig,
    device: torch.device | str,
    dtype: torch.dtype,
    load_format: LoadFormat = "auto",
    progress: Progress | None = None,
    seed: int = 0,
) -> ModelWeights:
    """Read (or, for "dummy", draw) the weights straight onto `device` as `dtype`.

    Raises ModelLoadError naming the file for damaged files, missing, unexpected or wrongly shaped tensors.
    """
    space = _Space(config, torch.device(device), dtype, progress)
    if load_format == "dummy":
        return _random_weights(config, space, seed)
    architecture = by_name(config.architecture)
    with Checkpoint(Path(folder)) as checkpoint:
        check_names(checkpoint, architecture, config)
        return _read_weights(checkpoint, architecture, config, space)


class _Space:
    """Where the tensors go, and how many bytes of them are there. On CPU all lie in one mapping of large pages."""

    def __init__(
        self, config: ModelConfig, device: torch.device, dtype: torch.dtype, progress: Progress | None
    ) -> None:
        self.device, self.dtype = device, dtype
        self._progress = progress
        self._done, self._total = 0, weights_nbytes(config, dtype)
        number = config.num_layers * len(layer_shapes(config)) + 3
        self._arena = Arena(self._total + number * ALIGNMENT, large_pages=True) if device.type == "cpu" else None

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        if self._arena is not None:
            return self._arena.tensor(shape, self.dtype)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def filled(self, tensor: torch.Tensor) -> torch.Tensor:
        self._done += tensor.nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)
        return tensor


def expected_names(architecture: Architecture, config: ModelConfig) -> set[str]:
    fields = layer_shapes(config)
    names = {architecture.embedding, architecture.final_norm}
    if not config.tie_word_embeddings:
        names.add("lm_head.weight")
    for layer in range(config.num_layers):
        prefix = architecture.layer_prefix.format(layer)
        names.update(prefix + part for field in fields for part in architecture.layer_parts[field])
    return names


def check_names(checkpoint: Checkpoint, architecture: Architecture, config: ModelConfig) -> None:
    """Every tensor must be used and every one needed must be there: a silent mismatch would be a wrong model."""
    expected = expected_names(architecture, config)
    if missing := sorted(expected - checkpoint.names()):
        checkpoint.fail(f"{len(missing)} tensors of {architecture.class_name} are missing, such as {missing[0]}")
    extra = sorted(n for n in checkpoint.names() - expected if not n.endswith(architecture.ignored))
    if config.tie_word_embeddings and "lm_head.weight" in extra:
        extra.remove("lm_head.weight")  # a copy of the embedding
    if extra:
        checkpoint.fail(
            f"{len(extra)} tensors are not part of {architecture.class_name} with {config.num_layers} layers, "
            f"such as {extra[0]}; quantized or adapted checkpoints are not supported"
        )


def _read_weights(
    checkpoint: Checkpoint, architecture: Architecture, config: ModelConfig, space: _Space
) -> ModelWeights:
    def read(names: list[str], shape: tuple[int, ...], rows: list[int]) -> torch.Tensor:
        merged = space.empty(shape)
        for name, piece in zip(names, torch.split(merged, rows), strict=True):
            checkpoint.copy_into(name, piece)
        return space.filled(merged)

    def read_layer(number: int) -> LayerWeights:
        prefix = architecture.layer_prefix.format(number)
        tensors = {}
        for field, shape in layer_shapes(config).items():
            names = [prefix + part for part in architecture.layer_parts[field]]
            tensors[field] = read(names, shape, part_rows(config, field, len(names)))
        return LayerWeights(**tensors)

    matrix = (config.vocab_size, config.hidden_size)
    embedding = read([architecture.embedding], matrix, [config.vocab_size])
    lm_head = embedding if config.tie_word_embeddings else read(["lm_head.weight"], matrix, [config.vocab_size])
    final_norm = read([architecture.final_norm], (config.hidden_size,), [config.hidden_size])
    return ModelWeights(embedding, [read_layer(n) for n in range(config.num_layers)], final_norm, lm_head)


def _random_weights(config: ModelConfig, space: _Space, seed: int) -> ModelWeights:
    """Uniform in +-0.03 (norms 1): logits stay finite at any depth, since every layer is normed."""
    generator = torch.Generator(space.device).manual_seed(seed) if space.device.type != "meta" else None

    def draw(shape: tuple[int, ...], field: str = "") -> torch.Tensor:
        tensor = space.empty(shape)
        if field.endswith("norm"):
            return space.filled(tensor.fill_(1.0))
        return space.filled(tensor.uniform_(-0.03, 0.03, generator=generator))

    matrix = (config.vocab_size, config.hidden_size)
    embedding = draw(matrix)
    lm_head = embedding if config.tie_word_embeddings else draw(matrix)
    shapes = layer_shapes(config)
    layers = [
        LayerWeights(**{field: draw(shape, field) for field, shape in shapes.items()})
        for _ in range(config.num_layers)
    ]
    return ModelWeights(embedding, layers, draw((config.hidden_size,), "norm"), lm_head)
