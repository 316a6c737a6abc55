"""Every attention backend against plain float32: head groups and dims, page sizes, ragged, mixed and padded steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")

from engine.attention.base import AttentionBackend, AttentionMetadata
from engine.attention.flash_attention import FlashAttention2
from engine.attention.registry import AUTO_ORDER, ProbeContext, choose
from engine.errors import ConfigurationError
from engine.kernels.rope_store import qk_norm_rope_store
from tests.support.paged import PagedBatch, expected, paged_batch, relative_error

CUDA = torch.device("cuda")
BACKENDS = AUTO_ORDER["cuda"]
HEADS = [(8, 8), (8, 4), (8, 2), (10, 2), (14, 2), (16, 2)]
"""(query heads, key heads): groups of 1, 2, 4, 5, 7, 8."""
STEPS = {  # query lengths, context lengths
    "decode": ([1] * 9, [1, 2, 63, 64, 65, 128, 257, 1000, 3000]),
    "one-row": ([1], [700]),
    "many-rows": ([1] * 130, [(37 * number) % 900 + 1 for number in range(130)]),
    "prefill": ([33, 1, 128, 129, 300], [33, 1, 128, 129, 300]),
    "chunks-after-a-prefix": ([7, 64, 200, 1], [300, 65, 1200, 77]),
    "mixed": ([1, 1, 1, 200, 33], [5, 700, 129, 200, 400]),
}
BOUND = 6e-3
"""Relative error of bf16 results; about 2.2e-3 is rounding."""


def make(name: str, heads: int, kv_heads: int, head_dim: int, block_size: int | None = None) -> AttentionBackend:
    context = ProbeContext(CUDA, torch.bfloat16, heads, kv_heads, head_dim, block_size)
    try:
        backend, _ = choose(name, context)
    except ConfigurationError as error:
        pytest.skip(str(error))
    return backend


def poisoned(batch: PagedBatch, backend: AttentionBackend) -> PagedBatch:
    """Our own kernels do not so much as read unused slots; others read and mask them, which NaN would show."""
    if backend.name == "triton":
        return batch
    keys, values = (torch.nan_to_num(t, nan=60.0) for t in (batch.key_cache, batch.value_cache))
    return replace(batch, key_cache=keys, value_cache=values)


def metadata_of(batch: PagedBatch, block_size: int) -> AttentionMetadata:
    counts = (batch.query_start[1:] - batch.query_start[:-1]).tolist()
    decoding = next((number for number, count in enumerate(counts) if count != 1), len(counts))
    nothing = torch.empty(0, dtype=torch.int64, device=CUDA)
    return AttentionMetadata(
        batch.query_start,
        batch.context_len,
        batch.block_table,
        nothing,
        nothing,
        decoding,
        max(counts),
        int(batch.context_len.max()),
        block_size,
    )


def attend(backend: AttentionBackend, batch: PagedBatch, metadata: AttentionMetadata) -> torch.Tensor:
    out = backend.attend(batch.query, batch.key_cache, batch.value_cache, metadata, batch.scale)
    torch.cuda.synchronize()
    return out


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_all_steps_over_head_groups(name: str, heads: int, kv_heads: int, head_dim: int) -> None:
    backend = make(name, heads, kv_heads, head_dim)
    page = backend.block_sizes[0]
    errors = {}
    for seed, (step, (queries, contexts)) in enumerate(STEPS.items()):
        plain = paged_batch(queries, contexts, heads, kv_heads, head_dim, page, torch.bfloat16, CUDA, seed)
        batch = poisoned(plain, backend)
        errors[step] = relative_error(attend(backend, batch, metadata_of(batch, page)), expected(plain))
    assert {step: error for step, error in errors.items() if not error < BOUND} == {}


@pytest.mark.parametrize(
    ("name", "page"), [("triton", 64), ("triton", 128), ("triton", 256), ("fa3", 128), ("fa3", 256)]
)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_all_steps_over_page_sizes(name: str, page: int, head_dim: int) -> None:
    backend = make(name, 14, 2, head_dim, page)
    for queries, contexts in STEPS.values():
        plain = paged_batch(queries, contexts, 14, 2, head_dim, page, torch.bfloat16, CUDA)
        batch = poisoned(plain, backend)
        assert relative_error(attend(backend, batch, metadata_of(batch, page)), expected(plain)) < BOUND


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "flash-attn"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [*HEADS, (28, 4)])
def test_decode_rows_that_share_a_prefix(name: str, heads: int, kv_heads: int, head_dim: int) -> None:
    """Beside chunks and alone, from few rows to many, rows that pad among them; equal to the bit each time."""
    backend = make(name, heads, kv_heads, head_dim)
    page = backend.block_sizes[0]
    for rows, blocks, chunks in ((8, 4, []), (33, 1, [40]), (64, 5, []), (130, 2, [7, 200])):
        own = [(37 * row) % 300 + 1 for row in range(rows)]
        counts, contexts = [1] * rows + chunks, [blocks * page + length for length in own] + chunks
        contexts[rows - 1] = 1  # as a row that only pads
        plain = paged_batch(counts, contexts, heads, kv_heads, head_dim, page, torch.bfloat16, CUDA)
        table = plain.block_table.clone()
        table[: rows - 1, :blocks] = plain.block_table[0, :blocks]
        plain = replace(plain, block_table=table)
        length = torch.tensor([blocks * page], dtype=torch.int32, device=CUDA)
        batch = poisoned(plain, backend)
        metadata = replace(metadata_of(batch, page), shared_len=length, num_decode_rows=rows)
        out, truth = attend(backend, batch, metadata), expected(plain)
        assert bool(out.isfinite().all())
        kept = torch.arange(len(out), device=CUDA) != rows - 1
        assert relative_error(out[kept], truth[kept]) < BOUND
        for _ in range(10):
            assert torch.equal(attend(backend, batch, metadata), out)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("decoding", "chunks"), [(5, []), (3, [40, 130]), (0, [64])])
def test_rows_that_only_pad_disturb_nobody(name: str, decoding: int, chunks: list[int]) -> None:
    """As in graphs: more decode rows over block 0 with a context of 1, then chunks of no tokens and no context."""
    backend = make(name, 14, 2, 128)
    page = backend.block_sizes[0]
    queries, contexts = [1] * decoding + chunks, [3, 700, 129, 64, 1][:decoding] + chunks
    plain = paged_batch(queries, contexts, 14, 2, 128, page, torch.bfloat16, CUDA)
    batch = poisoned(plain, backend)
    batch.key_cache[0], batch.value_cache[0] = 1.0, 1.0
    pad_decode, pad_chunks, pad_tokens = 3 if decoding else 0, 3 if chunks else 0, 50 if chunks else 0
    query = torch.cat(
        [
            batch.query[:decoding],
            torch.ones(pad_decode, 14, 128, dtype=torch.bfloat16, device=CUDA),
            batch.query[decoding:],
            torch.ones(pad_tokens, 14, 128, dtype=torch.bfloat16, device=CUDA),
        ]
    )
    counts = [1] * (decoding + pad_decode) + chunks + [0] * pad_chunks
    lengths = contexts[:decoding] + [1] * pad_decode + chunks + [0] * pad_chunks
    table = torch.zeros(len(counts), batch.block_table.shape[1], dtype=torch.int32, device=CUDA)
    table[:decoding] = batch.block_table[:decoding]
    table[decoding + pad_decode : decoding + pad_decode + len(chunks)] = batch.block_table[decoding:]
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32, device=CUDA)
    padded = replace(
        batch,
        query=query,
        query_start=starts,
        context_len=torch.tensor(lengths, dtype=torch.int32, device=CUDA),
        block_table=table,
    )
    longest = sum(chunks) + pad_tokens if chunks else 1  # a graph knows only the sum
    metadata = replace(
        metadata_of(padded, page),
        num_decode_rows=decoding + pad_decode,
        max_query_len=longest,
        max_context_len=4096,
    )
    out = attend(backend, padded, metadata)
    first = decoding + pad_decode
    ours = torch.cat([out[:decoding], out[first : first + sum(chunks)]])
    assert relative_error(ours, expected(plain)) < BOUND


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_flash_attention_rotates_and_appends_in_one_call(heads: int, kv_heads: int, head_dim: int) -> None:
    backend = make("flash-attn", heads, kv_heads, head_dim)
    assert isinstance(backend, FlashAttention2)
    contexts = [1, 2, 256, 257, 700]
    batch = paged_batch([1] * 5, contexts, heads, kv_heads, head_dim, 256, torch.bfloat16, CUDA)
    batch = replace(batch, key_cache=batch.key_cache.nan_to_num(60.0), value_cache=batch.value_cache.nan_to_num(60.0))
    generator = torch.Generator().manual_seed(9)
    width = (heads + 2 * kv_heads) * head_dim
    qkv = torch.randn(5, width, generator=generator).to(CUDA, torch.bfloat16)
    angles = torch.randn(1024, head_dim // 2, generator=generator).to(CUDA)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    query, key, value = qkv.view(5, -1, head_dim).split((heads, kv_heads, kv_heads), 1)
    keys, values = batch.key_cache.clone(), batch.value_cache.clone()
    cached = batch.context_len - 1
    out = backend.decode_with_append(
        query.contiguous(), key.contiguous(), value.contiguous(), keys, values, cos, sin, cached, batch.block_table,
        batch.scale,
    )  # fmt: skip
    slots = batch.block_table.gather(1, (cached // 256).long()[:, None])[:, 0].long() * 256 + cached % 256
    rotated = qk_norm_rope_store(
        qkv,
        None,
        None,
        None,
        1e-6,
        cos.float(),
        sin.float(),
        cached,
        slots,
        batch.key_cache,
        batch.value_cache,
        heads,
    )
    assert relative_error(out, expected(replace(batch, query=rotated))) < 1e-2
    assert relative_error(keys.flatten(0, 1)[slots], batch.key_cache.flatten(0, 1)[slots]) < 1e-2
    assert torch.equal(values, batch.value_cache)


def test_what_cannot_run_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigurationError, match="not among"):
        choose("triton", ProbeContext(CUDA, torch.bfloat16, 8, 2, 128, 48))
    with pytest.raises(ConfigurationError, match="fa3: "):
        choose("fa3", ProbeContext(CUDA, torch.float32, 8, 2, 128, None))
    with pytest.raises(ConfigurationError, match="flash-attn: "):
        choose("flash-attn", ProbeContext(CUDA, torch.bfloat16, 8, 2, 128, None, windowed=True))
    with pytest.raises(ConfigurationError, match="unknown"):
        choose("flash-attn-9", ProbeContext(CUDA, torch.bfloat16, 8, 2, 128, None))
