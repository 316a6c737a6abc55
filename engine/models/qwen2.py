"""Qwen1.5, Qwen2, Qwen2.5, QwQ: grouped-query attention with a bias on q, k and v; SwiGLU."""

from __future__ import annotations

import math

from engine.models.architectures import Architecture
from engine.models.config import ModelConfig, RopeConfig, parse_dtype, parse_generation, parse_token_ids
from engine.models.fields import Fields

LAYER_PARTS = {
    "input_norm": ("input_layernorm.weight",),
    "qkv": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "qkv_bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "o": ("self_attn.o_proj.weight",),
    "post_norm": ("post_attention_layernorm.weight",),
    "gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "down": ("mlp.down_proj.weight",),
}


def parse_rope(fields: Fields, max_position: int) -> RopeConfig:
    """`rope_theta` + `rope_scaling` of hub files, or `rope_parameters` as transformers 5 writes it."""
    scaling = fields.section("rope_parameters", "rope_scaling")
    theta = Fields({**fields.values, **scaling.values}, fields.path).number("rope_theta", default=10000.0, low=1.0)
    kind = scaling.raw("rope_type", "type") or "default"
    if scaling.number("partial_rotary_factor", default=1.0) != 1.0:
        fields.fail("partial_rotary_factor other than 1 is not supported")
    if kind == "default":
        return RopeConfig(theta=theta)
    factor = scaling.number("factor", default=1.0, low=1.0, high=1024.0)
    if kind == "linear":
        return RopeConfig(theta=theta, kind="linear", factor=factor)
    if kind != "yarn":
        fields.fail(f"rope type {kind!r:.80} is not supported; supported: default, linear, yarn")
    original = scaling.integer("original_max_position_embeddings", default=max_position)
    mscale, mscale_all = scaling.number("mscale", default=0.0), scaling.number("mscale_all_dim", default=0.0)
    scale = math.log(factor) * 0.1
    proposed = (scale * mscale + 1) / (scale * mscale_all + 1) if mscale and mscale_all else scale + 1
    return RopeConfig(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_max_position=original,
        attention_factor=scaling.number("attention_factor", default=proposed, high=100.0),
        beta_fast=scaling.number("beta_fast", default=32.0, high=1e6) or 32.0,
        beta_slow=scaling.number("beta_slow", default=1.0, high=1e6) or 1.0,
        truncate=scaling.flag("truncate", default=True),
    )


def parse_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """A window only where use_sliding_window says so: in the layers from max_window_layers on, or by layer_types."""
    if not fields.flag("use_sliding_window") or fields.raw("sliding_window") is None:
        return ()
    window = fields.integer("sliding_window", high=1 << 30)
    types = fields.raw("layer_types")
    if types is None:
        first = fields.integer("max_window_layers", default=28, low=0)
        types = ["sliding_attention" if layer >= first else "full_attention" for layer in range(num_layers)]
    known = {"sliding_attention": window, "full_attention": None}
    if not isinstance(types, list) or len(types) != num_layers or any(t not in known for t in types):
        fields.fail(f"layer_types must name {num_layers} layers, each one of {', '.join(known)}")
    return tuple(known[t] for t in types)


def parse(fields: Fields, generation: Fields) -> ModelConfig:
    """Also what Qwen3 builds on."""
    hidden_size = fields.integer("hidden_size", high=1 << 17)
    num_layers = fields.integer("num_hidden_layers", high=1024)
    num_heads = fields.integer("num_attention_heads", high=1024)
    num_kv_heads = fields.integer("num_key_value_heads", default=num_heads, high=1024)
    head_dim = fields.integer("head_dim", default=max(1, hidden_size // num_heads), high=512)
    if num_heads % num_kv_heads:
        fields.fail(f"num_attention_heads {num_heads} is not a multiple of num_key_value_heads {num_kv_heads}")
    if head_dim % 2:
        fields.fail(f"head_dim must be even, found {head_dim}")
    activation = fields.raw("hidden_act") or "silu"
    if activation not in ("silu", "swish"):
        fields.fail(f"hidden_act {activation!r:.80} is not supported; supported: silu")
    max_position = fields.integer("max_position_embeddings", default=32768)
    rope = parse_rope(fields, max_position)
    vocab_size = fields.integer("vocab_size", high=1 << 22)
    eos = [*parse_token_ids(generation.raw("eos_token_id"), generation, vocab_size)]
    eos += parse_token_ids(fields.raw("eos_token_id"), fields, vocab_size)
    return ModelConfig(
        architecture="qwen2",
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.integer("intermediate_size", high=1 << 20),
        vocab_size=vocab_size,
        rms_norm_eps=fields.number("rms_norm_eps", default=1e-6, high=1.0),
        rope=rope,
        max_position=round(rope.original_max_position * rope.factor) if rope.kind == "yarn" else max_position,
        qkv_bias=True,
        qk_norm=False,
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        dtype=parse_dtype(fields),
        layer_windows=parse_windows(fields, num_layers),
        eos_token_ids=tuple(dict.fromkeys(eos)),
        generation=parse_generation(generation),
    )


ARCHITECTURE = Architecture(
    name="qwen2",
    class_name="Qwen2ForCausalLM",
    parse=parse,
    embedding="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    layer_prefix="model.layers.{}.",
    layer_parts=LAYER_PARTS,
    ignored=(".rotary_emb.inv_freq",),
)
