"""Qwen 1 (2023): the Qwen2 network under other names, with logn attention and dynamic NTK past its trained length."""

from __future__ import annotations

from engine.models.architectures import Architecture
from engine.models.config import ModelConfig, RopeConfig, parse_dtype, parse_generation, parse_token_ids
from engine.models.fields import Fields

CHATML_STOP_IDS = (151645, 151644)
"""<|im_end|> and <|im_start|>: no file of a Qwen 1 chat model says that they end a reply."""
LOGN_TABLE_LENGTH = 32767
"""Positions the logn table of the original covers."""


def parse_dtype_flags(fields: Fields) -> str:
    flags = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    return parse_dtype(fields) or next((name for flag, name in flags.items() if fields.flag(flag)), "")


def parse_stop_ids(fields: Fields, generation: Fields, vocab_size: int) -> tuple[int, ...]:
    ids = [*parse_token_ids(generation.raw("eos_token_id"), generation, vocab_size)]
    ids += parse_token_ids(fields.raw("eos_token_id"), fields, vocab_size)
    if generation.raw("chat_format") == "chatml":
        ids += [i for i in CHATML_STOP_IDS if i < vocab_size]
    return tuple(dict.fromkeys(ids))


def parse(fields: Fields, generation: Fields) -> ModelConfig:
    """The first release spells the sizes n_embd, n_layer, n_head, ffn_hidden_size, n_positions, padded_vocab_size."""
    num_heads = fields.integer("num_attention_heads", "n_head", high=1024)
    hidden_size = fields.integer("hidden_size", "n_embd", high=1 << 17)
    head_dim = fields.integer("kv_channels", default=max(1, hidden_size // num_heads), high=512)
    doubled = fields.integer("intermediate_size", "ffn_hidden_size", high=1 << 20)
    if head_dim % 2 or doubled % 2:
        fields.fail("kv_channels and intermediate_size must be even")
    if fields.number("rotary_pct", default=1.0) != 1.0:
        fields.fail("rotary_pct other than 1 is not supported")
    if not fields.flag("no_bias", default=True):
        fields.fail("no_bias false is not supported")
    seq_length = fields.integer("seq_length")
    longest = fields.integer("max_position_embeddings", "n_positions", default=seq_length)
    dynamic_ntk, logn = fields.flag("use_dynamic_ntk"), fields.flag("use_logn_attn")
    vocab_size = fields.integer("padded_vocab_size", "vocab_size", high=1 << 22)
    return ModelConfig(
        architecture="qwen",
        hidden_size=hidden_size,
        num_layers=fields.integer("num_hidden_layers", "n_layer", high=1024),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        intermediate_size=doubled // 2,
        vocab_size=vocab_size,
        rms_norm_eps=fields.number("layer_norm_epsilon", default=1e-6, high=1.0),
        rope=RopeConfig(theta=fields.number("rotary_emb_base", "rope_theta", default=10000.0, low=1.0)),
        max_position=seq_length,
        qkv_bias=True,
        qk_norm=False,
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        dtype=parse_dtype_flags(fields),
        extrapolated_max_position=min(max(longest, seq_length), LOGN_TABLE_LENGTH) if dynamic_ntk or logn else 0,
        dynamic_ntk=dynamic_ntk,
        logn_attention=logn,
        seq_length=seq_length,
        eos_token_ids=parse_stop_ids(fields, generation, vocab_size),
        generation=parse_generation(generation),
    )


ARCHITECTURE = Architecture(
    name="qwen",
    class_name="QWenLMHeadModel",
    parse=parse,
    embedding="transformer.wte.weight",
    final_norm="transformer.ln_f.weight",
    layer_prefix="transformer.h.{}.",
    layer_parts={
        "input_norm": ("ln_1.weight",),
        "qkv": ("attn.c_attn.weight",),
        "qkv_bias": ("attn.c_attn.bias",),
        "o": ("attn.c_proj.weight",),
        "post_norm": ("ln_2.weight",),
        "gate_up": ("mlp.w2.weight", "mlp.w1.weight"),
        "down": ("mlp.c_proj.weight",),
    },
    ignored=(".rotary_emb.inv_freq", ".attn.masked_bias"),
)
