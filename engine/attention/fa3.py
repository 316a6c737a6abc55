"""FlashAttention-3 for Hopper, where the optional `fa3-fwd` package is installed.

Its build knows only the paged path through the tensor memory accelerator: pages of 128 or 256 tokens, and more rows
(queries times head group) than a query tile of its kernel, whose size depends on the head's. Short chunks qualify
because `max_seqlen_q` is no more than an upper bound when the row starts are given.
"""

from __future__ import annotations

import importlib

import torch

from engine.attention.base import AttentionMetadata
from engine.attention.reference import PlainStore
from engine.attention.registry import ProbeContext, ProbeResult
from engine.attention.triton_paged import TritonAttention

_TILE_ROWS = {64: 192, 128: 128}
"""Rows of its kernel's query tile by head_dim. At 256 its key tiles do not divide a page."""


class FlashAttention3(PlainStore):
    """Prefill chunks through FlashAttention-3; decode rows through our own kernel, which was faster at every size."""

    name = "fa3"
    block_sizes: tuple[int, ...] = (128, 256)
    reads_shared_prefix = True

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        importlib.import_module("fa3_fwd._C")  # registers the operator
        self._forward = torch.ops.fa3_fwd.fwd
        self._decode = TritonAttention(num_heads, num_kv_heads, head_dim, pdl=True)
        self._shifted: tuple[AttentionMetadata, torch.Tensor] | None = None
        self._shortest = _TILE_ROWS[head_dim] // (num_heads // num_kv_heads) + 1

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        decoding, rows = metadata.num_decode_rows, metadata.context_len.shape[0]
        if decoding == rows:
            return self._decode.attend(query, key_cache, value_cache, metadata, scale, window)
        out = torch.empty_like(query)
        if decoding:
            self._decode.decode_rows(query, key_cache, value_cache, metadata, scale, window, out)
        self._forward(
            query[decoding:],
            key_cache,
            value_cache,
            out=out[decoding:],
            cu_seqlens_q=self._query_start(metadata),
            seqused_k=metadata.context_len[decoding:],
            max_seqlen_q=max(metadata.max_query_len, self._shortest),
            page_table=metadata.block_table[decoding:],
            softmax_scale=scale,
            is_causal=True,
            num_splits=1,
            pack_gqa=True,
        )
        return out

    def _query_start(self, metadata: AttentionMetadata) -> torch.Tensor:
        """Where the chunks begin among the chunks' own tokens; computed once for all layers of a step."""
        decoding = metadata.num_decode_rows
        if decoding == 0:
            return metadata.query_start
        if self._shifted is None or self._shifted[0] is not metadata:
            self._shifted = (metadata, metadata.query_start[decoding:] - decoding)
        return self._shifted[1]


def probe(context: ProbeContext) -> ProbeResult:
    """Needs Hopper, bfloat16, head_dim 64 or 128, no sliding window, and the package."""
    if context.capability[0] != 9:
        return None, "needs a Hopper GPU"
    if context.dtype != torch.bfloat16:
        return None, f"built for bfloat16, not {context.dtype}"
    if context.head_dim not in _TILE_ROWS or context.windowed:
        return None, "head_dim or sliding window is outside of its build"
    try:
        backend = FlashAttention3(context.num_heads, context.num_kv_heads, context.head_dim)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return None, f"not installed ({error})"
    return backend, "FlashAttention-3 for prefill, own kernel for decode"
