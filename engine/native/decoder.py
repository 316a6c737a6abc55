"""The decoder as one native call a step: all layers from token ids to hidden states, then the logits."""

from __future__ import annotations

import logging

import torch

from engine.attention.base import AttentionMetadata
from engine.models.config import ModelConfig
from engine.models.rope import RotaryStep
from engine.models.weights import LayerWeights, ModelWeights
from engine.native.library import DTYPES, Native, load_native
from engine.native.structs import Layer, Model, Shape, Step
from engine.native.wide import WideSteps, wide_steps

logger = logging.getLogger(__name__)


class NativeDecoder:
    """Same face as `engine.models.decoder.Decoder`. Weights stay where they are, row-major; nothing is repacked.

    Residuals, norms, rotations and sums are float32; products take the weights' dtype (bf16 activations only where
    the CPU multiplies bf16 pairs); keys and values are rounded to the cache's dtype, which is the weights'. A token's
    result is the same alone, in any batch and in any chunk of a prompt (but for steps left to `wide`).
    """

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, native: Native, wide: WideSteps | None = None
    ) -> None:
        self.native = native
        self._wide = wide
        self._config = config
        self._weights = weights  # keeps the memory alive that the native side points into
        self._dtype = weights.embedding.dtype
        layers = [_layer(layer, config.window(number)) for number, layer in enumerate(weights.layers)]
        self._layers = (Layer * len(layers))(*layers)
        tensors = (weights.embedding, weights.final_norm, weights.lm_head)
        native.set_model(Model(_shape(config, self._dtype), *(_pointer(t) for t in tensors), self._layers))

    def forward(
        self,
        token_ids: torch.Tensor,  # [tokens] int64
        rotary: RotaryStep,
        metadata: AttentionMetadata,
        kv_cache: torch.Tensor,  # [2, layers, blocks, block_size, kv_heads, head_dim]
        kept: torch.Tensor | None = None,  # [kept] int64
    ) -> torch.Tensor:
        """One ragged step -> hidden states after the final norm, float32 [tokens, hidden].

        With `kept` only the hidden states of those tokens are made, [kept, hidden], which spares most of the last
        layer. Raises ValueError for a cache of another dtype or layout.
        """
        if kv_cache.dtype != self._dtype or not kv_cache.is_contiguous():
            raise ValueError(f"the cache must be contiguous {self._dtype}, found {kv_cache.dtype}")
        if self._wide is not None and len(token_ids) >= self._wide.min_tokens:
            return self._wide.forward(token_ids, rotary, metadata, kv_cache, kept)
        if kept is None:
            kept = torch.arange(len(token_ids))
        hidden = torch.empty(len(kept), self._config.hidden_size)
        index = [t.to(torch.int64).contiguous() for t in (token_ids, metadata.slot_mapping, kept)]
        rows = [
            t.to(torch.int32).contiguous() for t in (metadata.query_start, metadata.context_len, metadata.block_table)
        ]
        angles = [t.float().contiguous() for t in (rotary.cos, rotary.sin)]
        scale = None if rotary.query_scale is None else rotary.query_scale.float().contiguous()
        step = Step(
            tokens=len(token_ids),
            rows=len(rows[1]),
            max_blocks=rows[2].shape[1],
            block_size=kv_cache.shape[3],
            kept=len(kept),
            token_ids=_pointer(index[0]),
            slots=_pointer(index[1]),
            cosines=_pointer(angles[0]),
            sines=_pointer(angles[1]),
            query_scale=_pointer(scale),
            query_start=_pointer(rows[0]),
            context_len=_pointer(rows[1]),
            block_table=_pointer(rows[2]),
            key_cache=_pointer(kv_cache[0]),
            value_cache=_pointer(kv_cache[1]),
            layer_stride=kv_cache.stride(1),
            kept_tokens=_pointer(index[2]),
            hidden=_pointer(hidden),
        )
        self.native.forward(step)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocab] float32."""
        logits = torch.empty(len(hidden), self._config.vocab_size)
        self.native.logits(hidden.float().contiguous(), logits)
        return logits


def build_decoder(config: ModelConfig, weights: ModelWeights, threads: int) -> NativeDecoder | None:
    """The native decoder on `threads` threads, or None with one log line that says why not."""
    native = load_native(threads)
    if native is None:
        return None
    reason = refusal(config, weights, native)
    if reason is None:
        return NativeDecoder(config, weights, native, wide_steps(config, weights, native))
    logger.warning("native CPU kernels are not used for this model, torch computes: %s", reason)
    native.close()
    return None


def refusal(config: ModelConfig, weights: ModelWeights, native: Native) -> str | None:
    """Why the kernels cannot run this model, or None."""
    dtype = weights.embedding.dtype
    if dtype not in DTYPES:
        return f"dtype {dtype}; bfloat16 and float32 are served"
    strip = native.strip(dtype)
    sizes = {
        "hidden_size": config.hidden_size,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
    }
    for name, size in sizes.items():
        if size % strip:
            return f"{name} {size} is not a multiple of {strip}"
    if config.num_heads % config.num_kv_heads:
        return "the heads are not a multiple of the kv heads"
    return None


def _shape(config: ModelConfig, dtype: torch.dtype) -> Shape:
    return Shape(
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        element_bytes=dtype.itemsize,
        norm_eps=config.rms_norm_eps,
        attention_scale=config.head_dim**-0.5,
    )


def _layer(layer: LayerWeights, window: int | None) -> Layer:
    return Layer(
        input_norm=_pointer(layer.input_norm),
        qkv=_pointer(layer.qkv),
        qkv_bias=_pointer(layer.qkv_bias),
        query_norm=_pointer(layer.q_norm),
        key_norm=_pointer(layer.k_norm),
        output=_pointer(layer.o),
        post_norm=_pointer(layer.post_norm),
        gate_up=_pointer(layer.gate_up),
        down=_pointer(layer.down),
        window=window or 0,
    )


def _pointer(tensor: torch.Tensor | None) -> int | None:
    """Address of a contiguous CPU tensor. Raises ValueError for any other."""
    if tensor is None:
        return None
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError("expected a contiguous tensor on the CPU")
    return tensor.data_ptr()
