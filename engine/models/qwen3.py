"""Qwen3 dense: as Qwen2, but no bias and an RMS norm on every query and key head before the rotation."""

from __future__ import annotations

import dataclasses

import msgspec

from engine.models import qwen2
from engine.models.config import ModelConfig
from engine.models.fields import Fields


def parse(fields: Fields, generation: Fields) -> ModelConfig:
    """head_dim is 128 where the file does not say (the class's default), not hidden_size / num_heads."""
    if fields.flag("attention_bias"):
        fields.fail("attention_bias true is not supported for Qwen3ForCausalLM")
    fields = Fields({"head_dim": 128, **fields.values}, fields.path)
    return msgspec.structs.replace(
        qwen2.parse(fields, generation), architecture="qwen3", qkv_bias=False, qk_norm=True
    )


ARCHITECTURE = dataclasses.replace(
    qwen2.ARCHITECTURE,
    name="qwen3",
    class_name="Qwen3ForCausalLM",
    parse=parse,
    layer_parts={
        **{field: parts for field, parts in qwen2.LAYER_PARTS.items() if field != "qkv_bias"},
        "q_norm": ("self_attn.q_norm.weight",),
        "k_norm": ("self_attn.k_norm.weight",),
    },
)
