"""Attention as its definition: float32, one query at a time. Slow; the truth that the others are held to."""

from __future__ import annotations

import torch

from engine.attention.base import AttentionMetadata


class PlainStore:
    """The part that every backend shares: keys and values go to their slots by plain indexing."""

    reads_shared_prefix = False

    def store(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
    ) -> None:
        """Write keys and values [tokens, kv_heads, head_dim] to their slots."""
        key_cache.view(-1, *key_cache.shape[2:])[metadata.slot_mapping] = key
        value_cache.view(-1, *value_cache.shape[2:])[metadata.slot_mapping] = value


class ReferenceAttention(PlainStore):
    """Any block size, any device."""

    name = "reference"
    block_sizes: tuple[int, ...] = (16,)

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        out = torch.empty_like(query)
        group = query.shape[1] // key_cache.shape[2]
        starts, lengths = metadata.query_start.tolist(), metadata.context_len.tolist()
        for row, context in enumerate(lengths):
            slots = torch.arange(context, device=query.device)
            blocks = metadata.block_table[row].long()[slots // metadata.block_size]
            keys = key_cache[blocks, slots % metadata.block_size].float().repeat_interleave(group, dim=1)
            values = value_cache[blocks, slots % metadata.block_size].float().repeat_interleave(group, dim=1)
            count = starts[row + 1] - starts[row]
            for offset in range(count):
                last = context - count + offset + 1
                first = max(0, last - window) if window is not None else 0
                scores = torch.einsum("hd,khd->hk", query[starts[row] + offset].float(), keys[first:last]) * scale
                mixed = torch.einsum("hk,khd->hd", scores.softmax(dim=-1), values[first:last])
                out[starts[row] + offset] = mixed.to(query.dtype)
        return out
