"""Prefill attention over paged keys, by backend: `python -m benchmarks.gpu_prefill --backends triton,fa3`.

Each backend runs as the engine runs it, over its own page size, inside a CUDA graph, on several copies of its data.
Results are checked against plain float32 where that fits, else against the first backend. Rates count the products
above the diagonal as not done: 4 x heads x head_dim x (query, key) pairs that see each other.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_kernels import graph_us
from engine.attention.base import AttentionBackend, AttentionMetadata
from engine.attention.registry import ProbeContext, choose
from engine.errors import ConfigurationError
from engine.kernels import reference

MODELS = {"qwen2.5-7b": (28, 4, 128), "qwen3-8b": (32, 8, 128), "qwen3-0.6b": (16, 8, 128), "qwen-7b": (32, 32, 128)}
"""Query heads, key heads, head dim."""
COPIES = 3
REFERENCE_PAIRS = 40_000_000
"""Scores of one head that the float32 check may hold."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One ragged batch."""

    queries: list[int]
    contexts: list[int]

    @property
    def pairs(self) -> int:
        """(query, key) pairs that see each other, of one head."""
        both = zip(self.queries, self.contexts, strict=True)
        return sum(count * (length - count) + count * (count + 1) // 2 for count, length in both)


def batches() -> dict[str, Rows]:
    ragged = [random.Random(number).randint(128, 512) for number in range(25)]
    return {
        "8 x 1024": Rows([1024] * 8, [1024] * 8),
        "1 x 8192": Rows([8192], [8192]),
        "25 x 128-512": Rows(ragged, ragged),
        "1 x 320": Rows([320], [320]),
        "4 x 512 after 4096": Rows([512] * 4, [4608] * 4),
        "16 x 64 after 2000": Rows([64] * 16, [2064] * 16),
    }


@dataclass(frozen=True, slots=True)
class Data:
    """Tensors of one batch; the same values for every page size."""

    query: torch.Tensor
    caches: list[torch.Tensor]  # each [2, blocks, page, kv_heads, head_dim]
    metadata: AttentionMetadata


def make_data(rows: Rows, heads: int, kv_heads: int, head_dim: int, page: int) -> Data:
    device = torch.device("cuda")
    pages = [-(-length // page) for length in rows.contexts]
    order = torch.randperm(sum(pages), generator=torch.Generator().manual_seed(0)) + 1
    table = torch.zeros(len(pages), max(pages), dtype=torch.int32)
    for row, taken in enumerate(torch.split(order, pages)):
        table[row, : len(taken)] = taken
    generator = torch.Generator(device=device).manual_seed(1)
    caches = []
    for _ in range(COPIES):
        cache = torch.zeros(2, sum(pages) + 1, page, kv_heads, head_dim, dtype=torch.bfloat16, device=device)
        for row, length in enumerate(rows.contexts):
            values = torch.randn(2, length, kv_heads, head_dim, generator=generator, device=device)
            position = torch.arange(length)
            cache[:, table[row, position // page].to(device), (position % page).to(device)] = values.bfloat16()
        caches.append(cache)
    query = torch.randn(sum(rows.queries), heads, head_dim, generator=generator, device=device).bfloat16()
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    metadata = AttentionMetadata(
        query_start=torch.tensor(
            [0, *torch.tensor(rows.queries).cumsum(0).tolist()], dtype=torch.int32, device=device
        ),
        context_len=torch.tensor(rows.contexts, dtype=torch.int32, device=device),
        block_table=table.to(device),
        slot_mapping=nothing,
        positions=nothing,
        num_decode_rows=0,
        max_query_len=max(rows.queries),
        max_context_len=max(rows.contexts),
        block_size=page,
    )
    return Data(query, caches, metadata)


def attend(backend: AttentionBackend, data: Data, copy: int) -> torch.Tensor:
    keys, values = data.caches[copy]
    return backend.attend(data.query, keys, values, data.metadata, data.query.shape[2] ** -0.5)


def exact(rows: Rows, data: Data) -> torch.Tensor | None:
    """Plain float32, where its scores fit into memory."""
    if max(q * c for q, c in zip(rows.queries, rows.contexts, strict=True)) > REFERENCE_PAIRS:
        return None
    keys, values = data.caches[0]
    start, table = data.metadata.query_start.tolist(), data.metadata.block_table
    return reference.paged_attention(
        data.query, keys, values, start, rows.contexts, table, data.query.shape[2] ** -0.5
    )


def measure(names: list[str], rows: Rows, shape: tuple[int, int, int]) -> dict[str, dict[str, Any]]:
    """Microseconds, TFLOP/s and relative error by backend, or why it did not run."""
    heads, kv_heads, head_dim = shape
    found: dict[str, dict[str, Any]] = {}
    truth: torch.Tensor | None = None
    for name in names:
        try:
            context = ProbeContext(torch.device("cuda"), torch.bfloat16, heads, kv_heads, head_dim, None)
            backend, _ = choose(name, context)
            data = make_data(rows, heads, kv_heads, head_dim, backend.block_sizes[0])
            out = attend(backend, data, 0).float()
            if truth is None:
                wanted = exact(rows, data)
                truth = out if wanted is None else wanted
            error = float((out - truth).norm() / truth.norm())
            micros = graph_us(lambda copy, b=backend, d=data: attend(b, d, copy), COPIES)  # type: ignore[misc]
            rate = 4 * heads * head_dim * rows.pairs / micros / 1e6
            found[name] = {"us": micros, "tflops": rate, "error": error, "page": data.metadata.block_size}
        except (ConfigurationError, RuntimeError) as error:
            found[name] = {"failed": str(error)[:150]}
    return found


def line(model: str, batch: str, found: dict[str, dict[str, Any]]) -> str:
    cells = [
        entry["failed"]
        if "failed" in entry
        else f"{entry['us']:.0f} us, {entry['tflops']:.0f} TFLOP/s"
        + ("" if entry["error"] < 6e-3 else f" WRONG {entry['error']:.1e}")
        for entry in found.values()
    ]
    return f"| {model} | {batch} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="triton,fa3,flash-attn")
    parser.add_argument("--models", default="qwen2.5-7b,qwen3-0.6b")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = args.backends.split(",")
    results: dict[str, dict[str, Any]] = {}
    lines = [f"| model | rows | {' | '.join(names)} |", f"| --- | --- |{' --- |' * len(names)}"]
    for model in args.models.split(","):
        for batch, rows in batches().items():
            found = measure(names, rows, MODELS[model])
            results.setdefault(model, {})[batch] = found
            lines.append(line(model, batch, found))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
