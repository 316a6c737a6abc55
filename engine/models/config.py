"""What a checkpoint says about itself: config.json and generation_config.json in old and new spellings. No torch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import msgspec

from engine.models.fields import Fields, read_json

logger = logging.getLogger(__name__)

DTYPES = ("bfloat16", "float16", "float32")


class RopeConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rotary position embedding, rotate-half style over all of head_dim."""

    theta: float
    kind: Literal["default", "linear", "yarn"] = "default"
    factor: float = 1.0
    original_max_position: int = 0
    """yarn: the context the model was trained with, in tokens."""
    attention_factor: float = 1.0
    """yarn: multiplies cos and sin."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """yarn: round the borders of the ramp to whole dimensions."""


class GenerationDefaults(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sampling that generation_config.json proposes; None: the file does not say."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None


class ModelConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """A decoder-only Qwen model. Sizes are numbers of elements, positions are tokens."""

    architecture: Literal["qwen", "qwen2", "qwen3"]
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    """Not always hidden_size / num_heads."""
    intermediate_size: int
    """Real width of the MLP (Qwen 1 files say twice of it)."""
    vocab_size: int
    """Rows of the embedding; may be larger than the tokenizer."""
    rms_norm_eps: float
    rope: RopeConfig
    max_position: int
    """Longest sequence the checkpoint supports as it is, in tokens: the default of max_model_len."""
    qkv_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool
    dtype: str = ""
    """One of DTYPES; empty: config.json does not say, the weight file decides."""
    layer_windows: tuple[int | None, ...] = ()
    """Sliding window of each layer in tokens, None for full attention; empty: all layers are full."""
    extrapolated_max_position: int = 0
    """Qwen 1: with dynamic NTK and logn attention switched on; 0: cannot be extrapolated."""
    dynamic_ntk: bool = False
    logn_attention: bool = False
    seq_length: int = 0
    """Qwen 1: the trained length that dynamic NTK and logn attention refer to."""
    eos_token_ids: tuple[int, ...] = ()
    """Ids that end a reply, from config.json and generation_config.json; the tokenizer's eos comes on top."""
    generation: GenerationDefaults = GenerationDefaults()

    def longest_sequence(self, extrapolated: bool) -> int:
        """Tokens of the longest sequence that the positions cover."""
        return self.extrapolated_max_position if extrapolated else self.max_position

    def window(self, layer: int) -> int | None:
        return self.layer_windows[layer] if self.layer_windows else None

    @property
    def qkv_width(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


def load_model_config(folder: str | Path) -> ModelConfig:
    """Read `folder`/config.json (and generation_config.json where there is one).

    Raises ModelLoadError naming the file for anything missing, absurd or not supported.
    """
    from engine.models.architectures import find_architecture

    path = Path(folder) / "config.json"
    fields = Fields(read_json(path), path)
    architecture = find_architecture(fields)
    generation_path = Path(folder) / "generation_config.json"
    generation = Fields(read_json(generation_path) if generation_path.exists() else {}, generation_path)
    return architecture.parse(fields, generation)


def parse_dtype(fields: Fields) -> str:
    """ "torch.bfloat16" and "bfloat16" in any of the fields that name it; empty where none does."""
    value = fields.raw("dtype", "torch_dtype", "params_dtype")
    if value is None:
        return ""
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        fields.fail(f"dtype {value!r:.80} is not supported; supported: {', '.join(DTYPES)}")
    return name


def parse_token_ids(value: Any, fields: Fields, vocab_size: int) -> tuple[int, ...]:
    """An id, a list of ids or null; ids outside the vocabulary are left out."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > 1024 or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        fields.fail(f"eos_token_id must be an id or a list of ids, found {value!r:.80}")
    return tuple(dict.fromkeys(i for i in ids if 0 <= i < vocab_size))


GENERATION_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "top_k": (-1, 1 << 30),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "max_new_tokens": (1, 1 << 30),
}
"""What a request may ask for, too."""


def parse_generation(fields: Fields) -> GenerationDefaults:
    """Greedy (temperature 0) where the file says do_sample false. Values out of range only give a warning."""

    def number(name: str, kind: type[float] = float) -> float | None:
        value, (low, high) = fields.raw(name), GENERATION_RANGES[name]
        if value is None:
            return None
        if isinstance(value, kind | int) and not isinstance(value, bool) and low <= value <= high:
            return value
        logger.warning("%s: %s is out of range and left out: %.50r", fields.path, name, value)
        return None

    def integer(name: str) -> int | None:
        value = number(name, int)
        return None if value is None else int(value)

    top_k = integer("top_k")
    return GenerationDefaults(
        temperature=0.0 if fields.raw("do_sample") is False else number("temperature"),
        top_p=number("top_p"),
        top_k=None if top_k is None else max(0, top_k),
        min_p=number("min_p"),
        repetition_penalty=number("repetition_penalty"),
        max_new_tokens=integer("max_new_tokens"),
    )
