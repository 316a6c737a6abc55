"""What the kernels compute, in plain torch: slow, obvious, float32. Tests tie the two together."""

from __future__ import annotations

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x [rows, size] in float32, scaled to unit mean square, times weight."""
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.float()


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.float().chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, head_dim] by cos, sin [tokens, head_dim / 2]: halves are pairs, as in GPT-NeoX."""
    low, high = x.float().chunk(2, -1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def gather_pages(cache: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """cache [blocks, block_size, kv_heads, head_dim] through one row's block table -> [length, ...]."""
    return cache[table.long()].flatten(0, 1)[:length].float()


def paged_attention(
    query: torch.Tensor,  # [tokens, heads, head_dim]
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    query_start: list[int],
    context_len: list[int],
    block_table: torch.Tensor,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:  # [tokens, heads, head_dim] float32
    """Row by row: every query sees the keys of its row at positions up to its own."""
    out = torch.zeros_like(query, dtype=torch.float32)
    group = query.shape[1] // key_cache.shape[2]
    for row, length in enumerate(context_len):
        first, last = query_start[row], query_start[row + 1]
        keys = gather_pages(key_cache, block_table[row], length).repeat_interleave(group, 1)
        values = gather_pages(value_cache, block_table[row], length).repeat_interleave(group, 1)
        position = torch.arange(length - (last - first), length, device=query.device)
        key_position = torch.arange(length, device=query.device)
        seen = key_position[None, :] <= position[:, None]
        if window:
            seen &= key_position[None, :] > position[:, None] - window
        score = torch.einsum("qhd,khd->hqk", query[first:last].float(), keys) * scale
        weight = score.masked_fill(~seen, float("-inf")).softmax(-1)
        out[first:last] = torch.einsum("hqk,khd->qhd", weight, values)
    return out
