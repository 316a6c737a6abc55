"""The decoder every Qwen architecture shares: pre-norm layers of paged attention and a gated MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from engine.attention.base import AttentionBackend, AttentionMetadata
from engine.models.config import ModelConfig
from engine.models.layers import LayerOps, Linear
from engine.models.rope import RotaryStep
from engine.models.weights import LayerWeights, ModelWeights


class Model(Protocol):
    """What a runner asks of a model, whoever computes it."""

    def forward(
        self,
        token_ids: torch.Tensor,  # [tokens] int64
        rotary: RotaryStep,
        metadata: AttentionMetadata,
        kv_cache: torch.Tensor,  # [2, layers, blocks, block_size, kv_heads, head_dim]
        kept: torch.Tensor | None = None,  # [kept] int64
    ) -> torch.Tensor:  # [kept, hidden], after the final norm
        """One ragged step; writes this step's keys and values into the cache.

        `kept`: the tokens whose hidden states are wanted, None for all.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocab] float32."""
        ...


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: torch.Tensor
    qkv: Linear
    qk_norms: tuple[torch.Tensor, torch.Tensor] | None
    o: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    window: int | None


class Decoder:
    """Takes the weights over: `weights.layers` is empty afterwards, each matrix lives once, as `ops` packed it."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, ops: LayerOps, attention: AttentionBackend
    ) -> None:
        self._config = config
        self._ops = ops
        self._attention = attention
        self._scale = config.head_dim**-0.5
        self._embedding = weights.embedding
        self._final_norm = weights.final_norm
        self._lm_head = ops.prepare_linear(weights.lm_head, None)
        self._layers: list[_Layer] = []
        while weights.layers:
            self._layers.append(self._prepare(weights.layers.pop(0), config.window(len(self._layers))))

    def _prepare(self, layer: LayerWeights, window: int | None) -> _Layer:
        norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
        return _Layer(
            input_norm=layer.input_norm,
            qkv=self._ops.prepare_linear(layer.qkv, layer.qkv_bias),
            qk_norms=norms,
            o=self._ops.prepare_linear(layer.o, None),
            post_norm=layer.post_norm,
            gate_up=self._ops.prepare_linear(layer.gate_up, None),
            down=self._ops.prepare_linear(layer.down, None),
            window=window,
        )

    def forward(
        self,
        token_ids: torch.Tensor,
        rotary: RotaryStep,
        metadata: AttentionMetadata,
        kv_cache: torch.Tensor,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor:
        ops, eps = self._ops, self._config.rms_norm_eps
        residual = self._embedding[token_ids]
        normed = ops.rms_norm(residual, self._layers[0].input_norm, eps)
        for number, layer in enumerate(self._layers):
            attended = self._attend(layer, normed, rotary, metadata, kv_cache[0, number], kv_cache[1, number])
            last = number + 1 == len(self._layers)
            if last and kept is not None:
                attended, residual = attended[kept], residual[kept]
            normed = ops.add_rms_norm(layer.o(attended), residual, layer.post_norm, eps)
            expanded = layer.down(ops.silu_mul(layer.gate_up(normed)))
            norm = self._final_norm if last else self._layers[number + 1].input_norm
            normed = ops.add_rms_norm(expanded, residual, norm, eps)
        return normed

    def _attend(
        self,
        layer: _Layer,
        normed: torch.Tensor,
        rotary: RotaryStep,
        metadata: AttentionMetadata,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
    ) -> torch.Tensor:
        config = self._config
        query, key, value = self._ops.rotate(
            layer.qkv(normed), config.num_heads, config.num_kv_heads, rotary, layer.qk_norms, config.rms_norm_eps
        )
        self._attention.store(key, value, key_cache, value_cache, metadata)
        out = self._attention.attend(query, key_cache, value_cache, metadata, self._scale, layer.window)
        return out.view(len(normed), -1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._lm_head(hidden).float()
