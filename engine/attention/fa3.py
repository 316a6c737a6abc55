"""FlashAttention-3 for Hopper, where the optional `fa3-fwd` package is installed.

Its build knows only the paged path through the tensor memory accelerator: pages of 128 or 256 tokens, and query tiles
of more than 128 rows (queries times head group). Decode rows qualify because `max_seqlen_q` is no more than an upper
bound when the row starts are given.
"""

from __future__ import annotations

import torch

from engine.attention.base import AttentionMetadata
from engine.attention.reference import store_rows
from engine.attention.registry import ProbeContext, ProbeResult

_TILE_ROWS = 128


class FlashAttention3:
    """One kernel call for decode rows and prefill chunks together."""

    name = "fa3"
    block_sizes: tuple[int, ...] = (128, 256)

    def __init__(self, num_heads: int, num_kv_heads: int) -> None:

        self._forward = torch.ops.fa3_fwd.fwd
        self._kv_heads = num_kv_heads
        self._shortest = _TILE_ROWS // (num_heads // num_kv_heads) + 1

    def store(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
    ) -> None:
        store_rows(key, value, key_cache, value_cache, metadata)

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        out: torch.Tensor = self._forward(
            query,
            key_cache,
            value_cache,
            cu_seqlens_q=metadata.query_start,
            seqused_k=metadata.context_len,
            max_seqlen_q=max(metadata.max_query_len, self._shortest),
            page_table=metadata.block_table,
            softmax_scale=scale,
            is_causal=True,
            num_splits=self._splits(metadata),
            pack_gqa=True,
        )[0]
        return out

    def _splits(self, metadata: AttentionMetadata) -> int:
        """Fixed by the shape of the batch, so that a row's sums do not depend on its neighbours' lengths."""
        rows = metadata.context_len.shape[0]
        if metadata.num_decode_rows < rows:
            return 1
        return min(8, max(1, 132 // (rows * self._kv_heads)))


def probe(context: ProbeContext) -> ProbeResult:
    """Needs Hopper, 16-bit tensors, head_dim 64 or 128, full attention, and the package."""
    if context.device.type != "cuda" or torch.cuda.get_device_capability(context.device)[0] != 9:
        return None, "needs a Hopper GPU"
    if context.dtype != torch.bfloat16:
        return None, f"built for bfloat16, not {context.dtype}"
    if context.head_dim not in (64, 128, 256) or context.windowed:
        return None, "head_dim or sliding window is outside of its build"
    try:
        backend = FlashAttention3(context.num_heads, context.num_kv_heads)
    except (ImportError, OSError) as error:
        return None, f"not installed ({error})"
    return backend, "FlashAttention-3 through fa3-fwd"
