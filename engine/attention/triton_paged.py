"""Paged attention through our own Triton kernels: any page size, any head group, windows, every dtype."""

from __future__ import annotations

import torch

from engine.attention.base import AttentionMetadata
from engine.attention.reference import PlainStore
from engine.attention.registry import ProbeContext, ProbeResult
from engine.kernels.paged_decode import DecodeWorkspace, paged_decode
from engine.kernels.paged_prefill import paged_prefill
from engine.kernels.shared_prefix import PrefixPartials, PrefixWorkspace, shared_prefix


class TritonAttention(PlainStore):
    """Decode rows and prefill chunks of one step go through one kernel each."""

    name = "triton"
    block_sizes: tuple[int, ...] = (64, 128, 256)
    reads_shared_prefix = True

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, pdl: bool = False) -> None:
        """`pdl`: launches overlap their predecessors, which Hopper can."""
        self._group = num_heads // num_kv_heads
        self._kv_heads = num_kv_heads
        self._head_dim = head_dim
        self._workspace: DecodeWorkspace | None = None
        self._prefix_workspace: PrefixWorkspace | None = None
        self.pdl = pdl

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
        out = query.new_empty(query.shape)
        if decoding:
            self.decode_rows(query, key_cache, value_cache, metadata, scale, window, out)
        if decoding < rows:
            paged_prefill(
                query,
                key_cache,
                value_cache,
                metadata.query_start,
                metadata.context_len,
                metadata.block_table,
                metadata.max_query_len,
                scale,
                first_row=decoding,
                window=window,
                out=out,
            )
        return out

    def decode_rows(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None,
        out: torch.Tensor,
    ) -> None:
        """The decode rows alone, which come first in `query` and `out`."""
        decoding = metadata.num_decode_rows
        paged_decode(
            query[:decoding],
            key_cache,
            value_cache,
            metadata.block_table,
            metadata.context_len,
            scale,
            self._workspace_for(decoding, query.device),
            window=window,
            out=out,
            pdl=self.pdl,
            prefix=self._attend_shared(query[:decoding], key_cache, value_cache, metadata, scale, window),
        )

    def _attend_shared(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None,
    ) -> PrefixPartials | None:
        """Decode rows' attention to what they share, if the step has found that they share something."""
        if metadata.shared_len is None or window is not None:
            return None
        rows, heads, head_dim = query.shape
        if self._prefix_workspace is None or self._prefix_workspace.lse.numel() < rows * heads:
            self._prefix_workspace = PrefixWorkspace(max(rows, 512), heads, head_dim, query.device)
        table, length = metadata.block_table, metadata.shared_len
        return shared_prefix(
            query, key_cache, value_cache, table, length, scale, self._prefix_workspace, pdl=self.pdl
        )

    def _workspace_for(self, rows: int, device: torch.device) -> DecodeWorkspace:
        # Graphs keep the old one alive and go on using it.
        if self._workspace is None or self._workspace.arrivals.numel() < rows * self._kv_heads:
            self._workspace = DecodeWorkspace(max(rows, 512), self._kv_heads, self._group, self._head_dim, device)
        return self._workspace


def probe(context: ProbeContext) -> ProbeResult:
    """Works wherever Triton compiles: an NVIDIA GPU of compute capability 8.0 or newer."""
    if context.device.type != "cuda":
        return None, "needs an NVIDIA GPU"
    if context.capability < (8, 0):
        return None, "needs compute capability 8.0"
    if context.head_dim not in (32, 64, 128, 256):
        return None, f"head_dim {context.head_dim} is not a power of two up to 256"
    pdl = context.capability >= (9, 0)
    return TritonAttention(context.num_heads, context.num_kv_heads, context.head_dim, pdl), "own kernels"
