"""Paged attention on CPU in plain torch: one fused call a row, over pages in place where a row has only one.

Heads that share keys are folded into the query axis for decode (one small matrix product a KV head instead of
`enable_gqa`, which takes a slow path on CPU); for prefill the keys are expanded by strides, without a copy.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from engine.attention.base import AttentionMetadata
from engine.attention.reference import PlainStore


class CpuAttention(PlainStore):
    """Reads `metadata.host_rows`. Large blocks keep most rows within one or two pages."""

    name = "cpu"
    block_sizes: tuple[int, ...] = (256,)

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
        start = 0
        for count, context, blocks in metadata.host_rows:
            keys, first = _row_pages(key_cache, blocks, count, context, metadata.block_size, window)
            values, _ = _row_pages(value_cache, blocks, count, context, metadata.block_size, window)
            rows = slice(start, start + count)
            if count == 1:
                out[rows] = _decode(query[rows], keys, values, scale)
            else:
                out[rows] = _prefill(query[rows], keys, values, scale, context - first, window)
            start += count
        return out


def _row_pages(
    cache: torch.Tensor, blocks: tuple[int, ...], count: int, context: int, block_size: int, window: int | None
) -> tuple[torch.Tensor, int]:
    """([keys, kv_heads, head_dim], position of the first): what the row's queries can see, a view where possible."""
    first = max(0, context - count + 1 - window) if window is not None else 0
    pages = range(first // block_size, (context - 1) // block_size + 1)
    if len(pages) == 1:
        base = pages[0] * block_size
        return cache[blocks[pages[0]], first - base : context - base], first
    taken = cache[torch.tensor([blocks[page] for page in pages])]
    base = pages[0] * block_size
    return taken.view(-1, *cache.shape[2:])[first - base : context - base], first


def _decode(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """query [1, heads, head_dim] sees all keys: KV heads are the batch, the group's heads the query axis."""
    kv_heads, head_dim = keys.shape[1:]
    folded = query.view(1, kv_heads, -1, head_dim)
    mixed = F.scaled_dot_product_attention(
        folded, keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0), scale=scale
    )
    return mixed.reshape(1, -1, head_dim)


def _prefill(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, seen: int, window: int | None
) -> torch.Tensor:
    """query [count, heads, head_dim]; the last `count` of the `seen` keys are the queries' own positions."""
    count, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    shape = (kv_heads, heads // kv_heads)
    causal = seen == count and window is None
    mixed = F.scaled_dot_product_attention(
        query.view(count, *shape, head_dim).permute(1, 2, 0, 3),
        keys.permute(1, 0, 2).unsqueeze(1).expand(*shape, seen, head_dim),
        values.permute(1, 0, 2).unsqueeze(1).expand(*shape, seen, head_dim),
        attn_mask=None if causal else _mask(count, seen, window),
        is_causal=causal,
        scale=scale,
    )
    return mixed.permute(2, 0, 1, 3).reshape(count, heads, head_dim)


def _mask(count: int, seen: int, window: int | None) -> torch.Tensor:
    """[count, seen]: True where a key is at or before the query's position and inside its window."""
    behind = torch.arange(seen - count, seen).unsqueeze(1) - torch.arange(seen)
    return behind >= 0 if window is None else (behind >= 0) & (behind < window)
