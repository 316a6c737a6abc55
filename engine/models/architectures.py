"""The architectures we run: who reads their config.json and under which names their tensors lie in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.models.config import ModelConfig
from engine.models.fields import Fields


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table. A layer's tensor is the concatenation (along rows) of the named parts."""

    name: str
    class_name: str
    parse: Callable[[Fields, Fields], ModelConfig]
    """(config.json, generation_config.json) -> ModelConfig."""
    embedding: str
    final_norm: str
    layer_prefix: str
    """With {} for the layer's number."""
    layer_parts: Mapping[str, tuple[str, ...]]
    """LayerWeights field -> names below the prefix."""
    ignored: tuple[str, ...] = ()
    """Suffixes of tensors in the file that carry nothing."""


def table() -> dict[str, Architecture]:
    """Architectures by the class name that config.json's `architectures` uses."""
    from engine.models import qwen, qwen2, qwen3

    return {a.class_name: a for a in (qwen.ARCHITECTURE, qwen2.ARCHITECTURE, qwen3.ARCHITECTURE)}


def by_name(name: str) -> Architecture:
    """The architecture a ModelConfig names."""
    return next(a for a in table().values() if a.name == name)


def find_architecture(fields: Fields) -> Architecture:
    """The architecture of a config.json. Raises ModelLoadError for anything that would not be computed right."""
    supported = table()
    names = ", ".join(supported)
    classes = fields.raw("architectures")
    model_type = fields.raw("model_type")
    found = classes[0] if isinstance(classes, list) and classes else None
    if found is None:
        found = next((a.class_name for a in supported.values() if a.name == model_type), None)
    if not isinstance(found, str) or found not in supported:
        fields.fail(f"architecture {found or model_type!r} is not supported; supported: {names}")
    if model_type is not None and model_type != supported[found].name:
        fields.fail(f"model_type {model_type!r:.80} does not belong to architecture {found}; supported: {names}")
    quantization = fields.section("quantization_config", "quantization")
    if quantization.values:
        method = quantization.raw("quant_method") or "unknown"
        fields.fail(f"quantization {method!r:.80} is not supported; supported: bfloat16, float16, float32 weights")
    if fields.raw("dual_chunk_attention_config") is not None:
        fields.fail("dual_chunk_attention_config is not supported; remove it to serve up to the trained length")
    return supported[found]
