"""Products and paged attention of the native kernels against plain float32."""

from __future__ import annotations

import mmap
import resource
from pathlib import Path

import pytest
import torch

from engine.attention.base import AttentionMetadata
from engine.attention.reference import ReferenceAttention
from engine.native.build import BuildError, library_path
from engine.native.library import DTYPES, Native
from tests.support.paged import PagedBatch, paged_batch, relative_error

BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
"""Relative error of a result rounded to that dtype, from inputs that are exact in it."""


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 65])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 64), (40, 96), (131, 896), (24, 4864)])
def test_linear(native: Native, dtype: torch.dtype, rows: int, outputs: int, inputs: int) -> None:
    x, weight = random(rows, inputs, dtype=dtype, seed=1), random(outputs, inputs, dtype=dtype, seed=2)
    bias = random(outputs, dtype=dtype, seed=3) if rows % 2 else None
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert relative_error(native.linear(x, weight, bias), exact) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_is_the_same_in_any_batch(native: Native, dtype: torch.dtype) -> None:
    x, weight = random(40, 2720, dtype=dtype, seed=1), random(72, 2720, dtype=dtype, seed=2)
    together = native.linear(x, weight)
    for first, last in [(0, 1), (3, 5), (5, 8), (8, 12), (12, 25), (25, 40)]:
        assert torch.equal(native.linear(x[first:last].contiguous(), weight), together[first:last])


def test_nan_and_infinity_come_through(native: Native) -> None:
    x, weight = random(2, 64, dtype=torch.bfloat16), random(8, 64, dtype=torch.bfloat16, seed=1)
    x[1, 5] = float("nan")
    out = native.linear(x, weight)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.zeros(2, 64), torch.zeros(8, 32)),
        (torch.zeros(2, 33), torch.zeros(8, 33)),
        (torch.zeros(2, 64), torch.zeros(8, 64, dtype=torch.bfloat16)),
        (torch.zeros(2, 64, dtype=torch.float16), torch.zeros(8, 64, dtype=torch.float16)),
        (torch.zeros(64, 2).T, torch.zeros(8, 64)),
    ],
    ids=["sizes", "odd inputs", "mixed dtypes", "float16", "strided"],
)
def test_linear_refuses(native: Native, x: torch.Tensor, weight: torch.Tensor) -> None:
    with pytest.raises(ValueError):
        native.linear(x, weight)


def metadata_of(batch: PagedBatch, block_size: int) -> AttentionMetadata:
    tokens = int(batch.query_start[-1])
    return AttentionMetadata(
        query_start=batch.query_start,
        context_len=batch.context_len,
        block_table=batch.block_table,
        slot_mapping=torch.zeros(tokens, dtype=torch.int64),
        positions=torch.zeros(tokens, dtype=torch.int64),
        num_decode_rows=0,
        max_query_len=0,
        max_context_len=int(batch.context_len.max()),
        block_size=block_size,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size"),
    [(14, 2, 64, 16), (4, 4, 32, 7), (16, 8, 128, 256), (5, 1, 96, 64), (2, 1, 256, 100)],
)
def test_paged_attention(
    native: Native, dtype: torch.dtype, window: int | None, heads: int, kv_heads: int, head_dim: int, block_size: int
) -> None:
    lens, contexts = [1, 1, 1, 37, 20, 3], [1, 129, 700, 37, 150, 65]
    batch = paged_batch(lens, contexts, heads, kv_heads, head_dim, block_size, dtype, torch.device("cpu"))
    metadata = metadata_of(batch, block_size)
    query, keys, values = batch.query, batch.key_cache, batch.value_cache
    exact = ReferenceAttention().attend(query.float(), keys.float(), values.float(), metadata, batch.scale, window)
    out = native.paged_attention(query, keys, values, metadata, batch.scale, window)
    assert relative_error(out, exact) < BOUNDS[dtype]


@pytest.mark.parametrize("window", [None, 300])
def test_long_rows_are_split_when_threads_outnumber_heads(window: int | None) -> None:
    from engine.native.library import load_native

    native = load_native(6)
    if native is None:
        pytest.skip("no native kernels here")
    batch = paged_batch([1, 4, 1], [2000, 900, 513], 6, 2, 32, 64, torch.float32, torch.device("cpu"))
    metadata = metadata_of(batch, 64)
    exact = ReferenceAttention().attend(
        batch.query, batch.key_cache, batch.value_cache, metadata, batch.scale, window
    )
    out = native.paged_attention(batch.query, batch.key_cache, batch.value_cache, metadata, batch.scale, window)
    assert relative_error(out, exact) < BOUNDS[torch.float32]
    native.close()


def test_refused_threads_are_no_crash() -> None:
    """A container may limit its processes; here it is the address space that has no room for their stacks."""
    try:
        path = library_path()
    except BuildError as error:
        pytest.skip(str(error))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), limits[1]))
    try:
        with pytest.raises(OSError, match="refuses 512 threads"):
            Native(path, 512)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert Native(path, 2).linear(torch.ones(1, 64), torch.ones(8, 64)).tolist() == [[64.0] * 8]
