"""Our paged attention kernels against plain float32, over ragged lengths, head groups and page sizes."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.paged_decode import DecodeWorkspace, paged_decode
from engine.kernels.paged_prefill import Tiling, paged_prefill
from tests.support.paged import PagedBatch, expected, paged_batch, relative_error

GROUPS = [(1, 1), (2, 2), (4, 1), (5, 1), (7, 2), (8, 1)]


def decode(batch: PagedBatch, splits: int, window: int | None = None) -> torch.Tensor:
    heads, kv_heads = batch.query.shape[1], batch.key_cache.shape[2]
    workspace = DecodeWorkspace(len(batch.context_len), kv_heads, heads // kv_heads, 128, batch.query.device)
    out = paged_decode(
        batch.query,
        batch.key_cache,
        batch.value_cache,
        batch.block_table,
        batch.context_len,
        batch.scale,
        workspace,
        splits=splits,
        window=window,
        block=32,
    )
    assert int(workspace.arrivals.abs().sum()) == 0, "counters are ready for the next layer"
    return out


@pytest.mark.parametrize(("group", "kv_heads"), GROUPS)
@pytest.mark.parametrize("splits", [1, 4])
def test_decode_over_head_groups(
    group: int, kv_heads: int, splits: int, device: torch.device, dtype: torch.dtype
) -> None:
    lengths = [1, 31, 64, 65, 200]
    batch = paged_batch([1] * 5, lengths, group * kv_heads, kv_heads, 64, 64, dtype, device)
    assert relative_error(decode(batch, splits), expected(batch)) < 5e-3


@pytest.mark.parametrize(("head_dim", "block_size"), [(64, 128), (128, 64), (128, 128), (128, 256)])
def test_decode_over_head_dims_and_pages(
    head_dim: int, block_size: int, device: torch.device, dtype: torch.dtype
) -> None:
    batch = paged_batch([1] * 3, [1, 130, 300], 14, 2, head_dim, block_size, dtype, device)
    assert relative_error(decode(batch, 8), expected(batch)) < 5e-3


def test_decode_with_a_window(device: torch.device, dtype: torch.dtype) -> None:
    batch = paged_batch([1] * 4, [1, 50, 65, 300], 4, 2, 64, 64, dtype, device)
    for splits in (1, 4):
        assert relative_error(decode(batch, splits, window=50), expected(batch, window=50)) < 5e-3


def test_decode_in_float32(device: torch.device) -> None:
    batch = paged_batch([1] * 3, [5, 130, 64], 7, 1, 64, 64, torch.float32, device)
    assert relative_error(decode(batch, 4), expected(batch)) < 1e-5


def prefill(batch: PagedBatch, first_row: int = 0, window: int | None = None) -> torch.Tensor:
    longest = int((batch.query_start[1:] - batch.query_start[:-1]).max())
    return paged_prefill(
        batch.query,
        batch.key_cache,
        batch.value_cache,
        batch.query_start,
        batch.context_len,
        batch.block_table,
        longest,
        batch.scale,
        first_row=first_row,
        window=window,
        tiling=Tiling(32, 32, 4, 2),
    )


@pytest.mark.parametrize(("group", "kv_heads"), GROUPS)
def test_prefill_over_head_groups(group: int, kv_heads: int, device: torch.device, dtype: torch.dtype) -> None:
    batch = paged_batch([33, 1, 64], [33, 90, 200], group * kv_heads, kv_heads, 64, 64, dtype, device)
    assert relative_error(prefill(batch), expected(batch)) < 5e-3


@pytest.mark.parametrize(("head_dim", "block_size"), [(64, 128), (128, 64), (128, 128)])
def test_prefill_over_head_dims_and_pages(
    head_dim: int, block_size: int, device: torch.device, dtype: torch.dtype
) -> None:
    batch = paged_batch([31, 65, 2], [140, 65, 129], 4, 2, head_dim, block_size, dtype, device)
    assert relative_error(prefill(batch), expected(batch)) < 5e-3


def test_prefill_leaves_decode_rows_alone(device: torch.device, dtype: torch.dtype) -> None:
    batch = paged_batch([1, 1, 40], [20, 70, 40], 2, 2, 64, 64, dtype, device)
    assert relative_error(prefill(batch, first_row=2)[2:], expected(batch)[2:]) < 5e-3


def test_prefill_with_a_window(device: torch.device, dtype: torch.dtype) -> None:
    batch = paged_batch([70, 40], [70, 150], 2, 1, 64, 64, dtype, device)
    assert relative_error(prefill(batch, window=33), expected(batch, window=33)) < 5e-3


def test_prefill_in_float32(device: torch.device) -> None:
    batch = paged_batch([40, 3], [64, 70], 2, 1, 64, 64, torch.float32, device)
    assert relative_error(prefill(batch), expected(batch)) < 1e-5
