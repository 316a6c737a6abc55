"""The forward pass on CUDA: a few fused kernels a layer around the matrix products."""

from __future__ import annotations

import dataclasses

import torch

from engine.attention.base import AttentionBackend, AttentionMetadata
from engine.kernels.norms import add_rms_norm, rms_norm
from engine.kernels.rope_store import qk_norm_rope_store
from engine.models.config import ModelConfig
from engine.models.weights import LayerWeights, ModelWeights
from engine.runner.cuda_products import Products


class CudaForward:
    """Tokens' embeddings in, logits out. Holds weights, the KV cache and the rotary tables; no state of a step."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        attention: AttentionBackend,
        kv_cache: torch.Tensor,  # [2, layers, blocks, block_size, kv_heads, head_dim]
        rotary: tuple[torch.Tensor, torch.Tensor],  # cos, sin [max_len, head_dim / 2] float32
        products: Products,
    ) -> None:
        self.config = config
        self.weights = weights
        self.attention = attention
        self.kv_cache = kv_cache
        self._cos, self._sin = rotary
        self._products = products
        self._scale = config.head_dim**-0.5

    @property
    def fuses_one_row(self) -> bool:
        """Whether a single decode row has a path of its own."""
        return self._products.one_row_kernel

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[tokens] int32 -> [tokens, hidden]: the residual stream's beginning."""
        return self.weights.embedding.index_select(0, token_ids)

    def hidden(self, residual: torch.Tensor, metadata: AttentionMetadata) -> torch.Tensor:
        """The stream after the last layer and the final norm, [tokens, hidden]; `residual` is overwritten."""
        layers, products, eps = self.weights.layers, self._products, self.config.rms_norm_eps
        pdl = products.pdl
        normed = rms_norm(residual, layers[0].input_norm, eps)
        for number, layer in enumerate(layers):
            attended = self._attend(number, layer, products.split_sums(normed, layer.qkv, "qkv"), metadata)
            normed = add_rms_norm(products.split_sums(attended, layer.o, "o"), residual, layer.post_norm, eps, pdl)
            activated = products.swiglu(normed, layer.gate_up)
            last = number + 1 == len(layers)
            norm = self.weights.final_norm if last else layers[number + 1].input_norm
            normed = add_rms_norm(products.split_sums(activated, layer.down, "down"), residual, norm, eps, pdl)
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] after the final norm -> [rows, vocab] in the model's dtype."""
        return self._products.plain(hidden, self.weights.lm_head)

    def one_row_logits(self, residual: torch.Tensor, metadata: AttentionMetadata) -> torch.Tensor:
        """All of it for one decode row, [1, hidden] -> [1, vocab]: norms and sums fused into the products."""
        products, eps = self._products, self.config.rms_norm_eps
        for number, layer in enumerate(self.weights.layers):
            qkv = products.row(residual, layer.qkv, norm=layer.input_norm, eps=eps)
            attended = self._attend(number, layer, qkv, metadata)
            products.row(attended, layer.o, residual=residual)
            activated = products.row(residual, layer.gate_up, norm=layer.post_norm, eps=eps, silu=True)
            products.row(activated, layer.down, residual=residual)
        return products.row(residual, self.weights.lm_head, norm=self.weights.final_norm, eps=eps)

    def rehearse_attention(self, metadata: AttentionMetadata) -> None:
        """Attention alone, of zeros over one key a row: compiles its kernels. Safe in several threads at once, since
        rows of one key leave nothing behind in the kernels' workspaces."""
        rows, device = metadata.context_len.shape[0], self.kv_cache.device
        shape = (rows, self.config.num_heads, self.config.head_dim)
        query = torch.zeros(shape, dtype=self.kv_cache.dtype, device=device)
        lengths = torch.ones(rows, dtype=torch.int32, device=device)
        single = dataclasses.replace(metadata, context_len=lengths)
        self.attention.attend(query, self.kv_cache[0, 0], self.kv_cache[1, 0], single, self._scale)

    def _attend(
        self, number: int, layer: LayerWeights, qkv: torch.Tensor, metadata: AttentionMetadata
    ) -> torch.Tensor:
        keys, values = self.kv_cache[0, number], self.kv_cache[1, number]
        query = qk_norm_rope_store(
            qkv,
            layer.qkv_bias,
            layer.q_norm,
            layer.k_norm,
            self.config.rms_norm_eps,
            self._cos,
            self._sin,
            metadata.positions,
            metadata.slot_mapping,
            keys,
            values,
            self.config.num_heads,
            self._products.pdl,
        )
        out = self.attention.attend(query, keys, values, metadata, self._scale, self.config.window(number))
        return out.view(out.shape[0], -1)
