"""Decode attention that reads the keys that all rows share once, against plain float32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.kernels.paged_decode import DecodeWorkspace, paged_decode
from engine.kernels.shared_prefix import (
    MAX_SPLITS,
    PrefixTiling,
    PrefixWorkspace,
    choose_prefix_tiling,
    shared_prefix,
)
from tests.support.paged import PagedBatch, expected, paged_batch, relative_error

PAGE = 64


def sharing(batch: PagedBatch, blocks: int) -> PagedBatch:
    """The same rows, whose first blocks are all those of the first row."""
    table = batch.block_table.clone()
    table[:, :blocks] = batch.block_table[0, :blocks]
    return replace(batch, block_table=table)


def attend(
    batch: PagedBatch, shared_tokens: int, tiling: PrefixTiling | None = None, splits: int | None = None
) -> torch.Tensor:
    heads, head_dim = batch.query.shape[1:]
    kv_heads, device, rows = batch.key_cache.shape[2], batch.query.device, len(batch.context_len)
    caches = (batch.query, batch.key_cache, batch.value_cache, batch.block_table)
    shared_len = torch.tensor([shared_tokens], dtype=torch.int32, device=device)
    workspace = PrefixWorkspace(rows, heads, head_dim, device)
    workspace.out.fill_(float("nan"))
    workspace.lse.fill_(float("nan"))
    prefix = shared_prefix(*caches, shared_len, batch.scale, workspace, tiling)
    own = DecodeWorkspace(rows, kv_heads, heads // kv_heads, head_dim, device)
    out = paged_decode(*caches, batch.context_len, batch.scale, own, splits=splits, block=32, prefix=prefix)
    assert int(own.arrivals.abs().sum()) == 0, "counters are ready for the next layer"
    return out


@pytest.mark.parametrize(("group", "kv_heads"), [(1, 2), (2, 2), (4, 1), (7, 2)])
@pytest.mark.parametrize("splits", [1, 4])
def test_over_head_groups(group: int, kv_heads: int, splits: int, device: torch.device, dtype: torch.dtype) -> None:
    lengths = [129, 250, 130, 192, 200]
    batch = sharing(paged_batch([1] * 5, lengths, group * kv_heads, kv_heads, 64, PAGE, dtype, device), 2)
    tiling = PrefixTiling(16, 32, 2, 4, 2)
    assert relative_error(attend(batch, 128, tiling, splits), expected(batch)) < 5e-3


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
@pytest.mark.parametrize("tiling", [PrefixTiling(16, 64, 1, 4, 2), PrefixTiling(32, 32, 4, 4, 3)])
def test_over_shared_lengths(blocks: int, tiling: PrefixTiling, device: torch.device, dtype: torch.dtype) -> None:
    """With more splits than keys too, and with nothing shared at all."""
    batch = sharing(paged_batch([1] * 3, [193, 320, 200], 14, 2, 64, PAGE, dtype, device), blocks)
    assert relative_error(attend(batch, blocks * PAGE, tiling, 2), expected(batch)) < 5e-3


@pytest.mark.parametrize("rows", [1, 9, 33])
def test_rows_that_fill_no_tile(rows: int, device: torch.device, dtype: torch.dtype) -> None:
    lengths = [70 + (37 * row) % 90 for row in range(rows)]
    batch = sharing(paged_batch([1] * rows, lengths, 4, 2, 64, PAGE, dtype, device), 1)
    assert relative_error(attend(batch, PAGE), expected(batch)) < 5e-3


@pytest.mark.parametrize("page", [128, 256])
def test_head_dim_128_over_pages(page: int, device: torch.device, dtype: torch.dtype) -> None:
    batch = sharing(paged_batch([1] * 2, [page + 1, page + 90], 7, 1, 128, page, dtype, device), 1)
    assert relative_error(attend(batch, page), expected(batch)) < 5e-3


def test_rows_that_pad_change_nothing(device: torch.device, dtype: torch.dtype) -> None:
    """Rows of the dummy block, shorter than what the others share: their output is a number, the others' the same."""
    batch = sharing(paged_batch([1] * 4, [200, 150, 1, 30], 8, 2, 64, PAGE, dtype, device), 2)
    out = attend(batch, 128)
    assert relative_error(out[:2], expected(batch)[:2]) < 5e-3
    assert bool(out.isfinite().all())


def test_in_float32(device: torch.device) -> None:
    batch = sharing(paged_batch([1] * 3, [65, 130, 100], 7, 1, 64, PAGE, torch.float32, device), 1)
    assert relative_error(attend(batch, PAGE), expected(batch)) < 1e-5


def test_large_scores_of_either_part(device: torch.device) -> None:
    """One part may outweigh the other by more than a float32 holds."""
    for strong in (0, 1):
        batch = sharing(paged_batch([1] * 2, [100, 120], 2, 1, 64, PAGE, torch.float32, device), 1)
        for row in range(2):
            batch.key_cache[batch.block_table[row, strong]] = 40 * batch.query[row, 0]
        assert relative_error(attend(batch, PAGE), expected(batch)) < 1e-5


@pytest.mark.parametrize("rows", [1, 8, 64, 300, 512])
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 8), (4, 7), (8, 2), (32, 1)])
def test_partials_fit_the_workspace(rows: int, kv_heads: int, group: int) -> None:
    tiling = choose_prefix_tiling(rows, kv_heads, group)
    workspace = PrefixWorkspace(512, kv_heads * group, 64, torch.device("cpu"))
    assert rows * kv_heads * group * tiling.splits <= workspace.lse.numel()
    assert 1 <= tiling.splits <= MAX_SPLITS
