"""Torch attention on CPU, and the reference itself, against softmax over contiguous keys."""

from __future__ import annotations

import pytest
import torch

from engine.attention.base import AttentionBackend, AttentionMetadata
from engine.attention.cpu import CpuAttention
from engine.attention.reference import ReferenceAttention
from engine.attention.registry import ProbeContext, choose
from engine.errors import ConfigurationError


def definition(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    """query [q, heads, d] at the end of keys [k, kv_heads, d], in float64 with an explicit mask."""
    count, seen = len(query), len(keys)
    group = query.shape[1] // keys.shape[1]
    keys, values = (t.double().repeat_interleave(group, dim=1) for t in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", query.double(), keys) * scale
    behind = torch.arange(seen - count, seen)[:, None] - torch.arange(seen)[None]
    hidden = (behind < 0) | (behind >= (window or seen + 1))
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), values)


def metadata_of(rows: list[tuple[int, int]], block_size: int, generator: torch.Generator) -> AttentionMetadata:
    """(query length, context length) of each row; pages in random order."""
    pages = [-(-context // block_size) for _, context in rows]
    order = (torch.randperm(sum(pages), generator=generator) + 1).tolist()
    tables = [tuple(order.pop() for _ in range(number)) for number in pages]
    positions = torch.cat([torch.arange(context - count, context) for count, context in rows])
    slots = [
        table[position // block_size] * block_size + position % block_size
        for table, (count, context) in zip(tables, rows, strict=True)
        for position in range(context - count, context)
    ]
    counts = [count for count, _ in rows]
    return AttentionMetadata(
        query_start=torch.tensor([0, *counts]).cumsum(0).int(),
        context_len=torch.tensor([context for _, context in rows], dtype=torch.int32),
        block_table=torch.nn.utils.rnn.pad_sequence([torch.tensor(t).int() for t in tables], batch_first=True),
        slot_mapping=torch.tensor(slots),
        positions=positions,
        num_decode_rows=sum(count == 1 for count in counts),
        max_query_len=max(counts),
        max_context_len=max(context for _, context in rows),
        block_size=block_size,
        host_rows=tuple((count, context, table) for (count, context), table in zip(rows, tables, strict=True)),
    )


@pytest.mark.parametrize("backend", [CpuAttention(), ReferenceAttention()], ids=lambda b: b.name)
@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 32), (14, 2, 64), (5, 5, 16), (8, 1, 128)])
@pytest.mark.parametrize("window", [None, 1, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ragged_rows_through_pages(
    backend: AttentionBackend,
    block_size: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int | None,
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(heads * block_size)
    rows = [(1, 1), (1, 16), (1, 65), (33, 33), (7, 40), (16, 80), (2, 17)]
    metadata = metadata_of(rows, block_size, generator)
    blocks = int(metadata.block_table.max()) + 1
    caches = torch.full((2, blocks, block_size, kv_heads, head_dim), torch.nan, dtype=dtype)
    contexts = [torch.randn(2, context, kv_heads, head_dim, generator=generator).to(dtype) for _, context in rows]
    new = []
    for (count, context), table, both in zip(rows, metadata.block_table, contexts, strict=True):
        for position in range(context - count):
            caches[:, table[position // block_size], position % block_size] = both[:, position]
        new.append(both[:, context - count :])
    keys, values = torch.cat(new, dim=1)
    query = torch.randn(len(keys), heads, head_dim, generator=generator).to(dtype)
    backend.store(keys, values, caches[0], caches[1], metadata)
    out = backend.attend(query, caches[0], caches[1], metadata, 0.3, window)
    parts = query.split([count for count, _ in rows])
    expected = torch.cat([definition(part, *both, 0.3, window) for part, both in zip(parts, contexts, strict=True)])
    tolerance = 1e-5 if dtype is torch.float32 else 0.03
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


def test_registry_says_why() -> None:
    cpu = ProbeContext(torch.device("cpu"), torch.float32, 4, 2, 32, None)
    assert choose("auto", cpu)[0].name == "cpu"
    assert choose("reference", cpu)[0].name == "reference"
    with pytest.raises(ConfigurationError, match="'nonsense' is unknown; known: auto, reference, cpu"):
        choose("nonsense", cpu)
    with pytest.raises(ConfigurationError, match="no attention backend works here: flash-attn: "):
        choose("flash-attn", cpu)
