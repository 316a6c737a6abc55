"""Random paged caches and ragged batches for attention tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.kernels import reference


@dataclass(frozen=True, slots=True)
class PagedBatch:
    query: torch.Tensor
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    query_start: torch.Tensor
    context_len: torch.Tensor
    block_table: torch.Tensor
    scale: float


def paged_batch(
    query_lens: list[int],
    context_lens: list[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 0,
) -> PagedBatch:
    """Pages in random order, unused slots filled with NaN: whoever reads past a row's length shows it."""
    generator = torch.Generator().manual_seed(seed)
    pages = [-(-length // block_size) for length in context_lens]
    order = torch.randperm(sum(pages), generator=generator) + 1
    table = torch.zeros(len(pages), max(pages), dtype=torch.int32)
    shape = (sum(pages) + 1, block_size, kv_heads, head_dim)
    keys = torch.randn(shape, generator=generator)
    values = torch.randn(shape, generator=generator)
    taken = 0
    for row, (count, length) in enumerate(zip(pages, context_lens, strict=True)):
        table[row, :count] = order[taken : taken + count]
        taken += count
        if length % block_size:
            keys[table[row, count - 1], length % block_size :] = float("nan")
            values[table[row, count - 1], length % block_size :] = float("nan")
    start = torch.tensor([0, *torch.tensor(query_lens).cumsum(0).tolist()], dtype=torch.int32)
    query = torch.randn(sum(query_lens), heads, head_dim, generator=generator)
    return PagedBatch(
        query.to(device, dtype),
        keys.to(device, dtype),
        values.to(device, dtype),
        start.to(device),
        torch.tensor(context_lens, dtype=torch.int32, device=device),
        table.to(device),
        head_dim**-0.5,
    )


def expected(batch: PagedBatch, window: int | None = None) -> torch.Tensor:
    """Attention by the float32 reference."""
    return reference.paged_attention(
        batch.query,
        batch.key_cache,
        batch.value_cache,
        batch.query_start.tolist(),
        batch.context_len.tolist(),
        batch.block_table,
        batch.scale,
        window,
    )


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference; NaN anywhere gives NaN, which fails every bound."""
    out, reference = out.float(), reference.float()
    return float((out - reference).norm() / reference.norm())
