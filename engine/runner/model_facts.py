"""What the builders of both devices read from settings and checkpoint, and what an engine tells of itself."""

from __future__ import annotations

import os

import torch

from engine.config import EngineConfig
from engine.memory.kv_layout import KvLayout
from engine.models.architectures import by_name
from engine.models.checkpoint import stored_dtype
from engine.models.config import ModelConfig
from engine.models.vocabulary import tokenizer_size
from engine.models.weights import weights_nbytes
from engine.process.messages import EngineInfo

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def model_dtype(config: EngineConfig, model: ModelConfig) -> torch.dtype:
    """The asked dtype; else the one that config.json names, or that the embedding is stored in."""
    name = model.dtype if config.dtype == "auto" else config.dtype
    if name:
        return DTYPES[name]
    if config.load_format == "dummy":
        return torch.bfloat16
    return stored_dtype(config.model_path, by_name(model.architecture).embedding)


def sampled_vocab(config: EngineConfig, model: ModelConfig) -> int:
    """Ids from there on are rows that only pad the embedding: they are never sampled."""
    return min(tokenizer_size(config.model_path) or model.vocab_size, model.vocab_size)


def describe(
    config: EngineConfig,
    model: ModelConfig,
    layout: KvLayout,
    *,
    num_blocks: int,
    max_model_len: int,
    max_num_batched_tokens: int,
    device: str,
    attention: tuple[str, str],
) -> EngineInfo:
    """`attention`: the backend's name and why it was taken. `load_s` is the caller's to fill in."""
    return EngineInfo(
        architecture=by_name(model.architecture).class_name,
        vocab_size=model.vocab_size,
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        block_size=layout.block_size,
        num_blocks=num_blocks,
        kv_cache_bytes=num_blocks * layout.block_nbytes,
        weights_bytes=weights_nbytes(model, layout.dtype),
        device=device,
        dtype=str(layout.dtype).removeprefix("torch."),
        attention_backend=attention[0],
        attention_reason=attention[1],
        policy=config.policy,
        load_s=0.0,
        pid=os.getpid(),
    )
