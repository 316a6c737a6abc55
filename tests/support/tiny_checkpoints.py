"""Tiny random checkpoints of every architecture and variant, with transformers' model of each as the reference."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.support.qwen_data import qwen_data

COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.2,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One checkpoint: config fields over COMMON, how it is saved, and what is done to its config.json afterwards."""

    architecture: str
    fields: dict[str, Any] = field(default_factory=dict)
    max_shard_size: str = "5GB"
    hub_spelling: bool = False


YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32}

VARIANTS: dict[str, Variant] = {
    "qwen2": Variant("qwen2"),
    "qwen2-tied": Variant("qwen2", {"tie_word_embeddings": True}),
    "qwen2-yarn": Variant("qwen2", {"rope_parameters": YARN, "max_position_embeddings": 128}),
    "qwen2-yarn-hub": Variant("qwen2", {"rope_parameters": YARN, "max_position_embeddings": 128}, hub_spelling=True),
    "qwen2-window": Variant("qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2}),
    "qwen2-mha": Variant("qwen2", {"num_key_value_heads": 4}),
    "qwen2-group7": Variant("qwen2", {"hidden_size": 224, "num_attention_heads": 14}),
    "qwen2-sharded-hub": Variant("qwen2", max_shard_size="200KB", hub_spelling=True),
    "qwen3": Variant("qwen3", {"head_dim": 32}),
    "qwen3-tied-hub": Variant("qwen3", {"head_dim": 32, "tie_word_embeddings": True}, hub_spelling=True),
    "qwen3-yarn": Variant("qwen3", {"head_dim": 32, "rope_parameters": YARN, "max_position_embeddings": 128}),
    "qwen3-window": Variant(
        "qwen3", {"head_dim": 32, "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
    ),
}


def build_checkpoint(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Write VARIANTS[name] into `folder` and return transformers' model of it.

    Weights are wide (so that logits spread), norms off 1 and biases off 0, else wrong mappings would not show.
    """
    variant = VARIANTS[name]
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[variant.architecture]
    torch.manual_seed(7)
    config = config_class(**{**COMMON, **variant.fields})
    config._attn_implementation = "eager"
    model = model_class(config).to(dtype).eval()
    make_uneven(model, 0.5)
    model.save_pretrained(folder, max_shard_size=variant.max_shard_size)
    if variant.hub_spelling:
        spell_as_on_the_hub(folder / "config.json")
    return model


def build_with_tokenizer(folder: Path) -> None:
    """A Qwen3 with the real vocabulary and tokenizer, but of almost no width."""
    torch.manual_seed(1)
    sizes = {
        "vocab_size": 151_936,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "eos_token_id": 151_645,
    }
    Qwen3ForCausalLM(Qwen3Config(**{**COMMON, **sizes, "tie_word_embeddings": True})).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(qwen_data() / "tokenizers" / "qwen3" / name, folder / name)


def spell_as_on_the_hub(path: Path) -> None:
    """rope_theta + rope_scaling + torch_dtype, as files made before transformers 5 have it; layer_types left out."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    path.write_text(json.dumps(config))


def reference_logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """[tokens, vocab] float32 of one sequence, computed by transformers in one go."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([token_ids])).logits[0].float()
    return logits


def make_uneven(model: torch.nn.Module, bias_std: float) -> None:
    """Norms off 1, biases off 0: wrong mappings show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=bias_std)
