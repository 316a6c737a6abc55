"""CPU kernels of the engine against what memory can deliver and against torch, on the Qwen2.5-0.5B shape.

    python -m benchmarks.cpu_kernels [--threads 2] [--repeats 5] [--dtype bfloat16]

Random weights. Times are medians; read them as ratios within one run, since other work on the machine moves them all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from engine.attention.base import AttentionMetadata
from engine.models.config import ModelConfig, RopeConfig
from engine.models.rope import RotaryStep, rope_tables
from engine.models.weights import ModelWeights, load_weights, weights_nbytes
from engine.native.decoder import NativeDecoder
from engine.native.library import Native, load_native

QWEN25_05B = ModelConfig(
    architecture="qwen2",
    hidden_size=896,
    num_layers=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    intermediate_size=4864,
    vocab_size=151936,
    rms_norm_eps=1e-6,
    rope=RopeConfig(theta=1e6),
    max_position=32768,
    qkv_bias=True,
    qk_norm=False,
    tie_word_embeddings=True,
)
BLOCK_SIZE = 256
ROWS = (1, 2, 4, 8, 16)
PROMPTS = (128, 512)


@dataclass(frozen=True, slots=True)
class Bench:
    native: Native
    weights: ModelWeights
    dtype: torch.dtype
    repeats: int
    console: Console

    def median_s(self, body: Callable[[], object]) -> float:
        """Median of `repeats` timed calls after one that is not counted."""
        times = []
        for _ in range(self.repeats + 1):
            started = time.perf_counter()
            body()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])


def bandwidth(bench: Bench) -> float:
    """Bytes a second that all threads together read from memory."""
    table = bench.weights.embedding
    return table.nbytes / bench.median_s(partial(bench.native.read, table))


def multiply_all(
    multiply: Callable[[torch.Tensor, torch.Tensor], object], x: torch.Tensor, matrices: list[torch.Tensor]
) -> None:
    for matrix in matrices:
        multiply(x, matrix)


def products(bench: Bench, read_rate: float) -> None:
    """One layer's products after another, so that weights come from memory and not from a cache."""
    table = Table("product", "rows", "GB/s", "of read", "GFLOP/s", "torch GFLOP/s", "ratio")
    for field in ("qkv", "gate_up", "down"):
        matrices = [getattr(layer, field) for layer in bench.weights.layers]
        outputs, inputs = matrices[0].shape
        for rows in (*ROWS, *PROMPTS):
            x = torch.randn(rows, inputs).to(bench.dtype)
            few = matrices if rows <= 16 else matrices[:4]
            own = bench.median_s(partial(multiply_all, bench.native.linear, x, few)) / len(few)
            theirs = bench.median_s(partial(multiply_all, F.linear, x, few[:4])) / 4
            rate, flops = matrices[0].nbytes / own, 2 * rows * outputs * inputs
            table.add_row(
                f"{field} {outputs}x{inputs}",
                str(rows),
                f"{rate / 1e9:.1f}",
                f"{rate / read_rate:.0%}",
                f"{flops / own / 1e9:.0f}",
                f"{flops / theirs / 1e9:.0f}",
                f"{theirs / own:.1f}",
            )
    bench.console.print(table)


def step_metadata(rows: int, count: int, context: int) -> AttentionMetadata:
    """`rows` rows of `count` tokens that end at `context`."""
    pages = -(-context // BLOCK_SIZE)
    block_table = torch.arange(rows * pages, dtype=torch.int32).view(rows, pages) + 1
    positions = torch.arange(context - count, context).repeat(rows)
    blocks = block_table.repeat_interleave(count, 0).gather(1, (positions // BLOCK_SIZE).unsqueeze(1)).squeeze(1)
    return AttentionMetadata(
        query_start=torch.arange(0, rows * count + 1, count, dtype=torch.int32),
        context_len=torch.full((rows,), context, dtype=torch.int32),
        block_table=block_table,
        slot_mapping=blocks.long() * BLOCK_SIZE + positions % BLOCK_SIZE,
        positions=positions,
        num_decode_rows=rows if count == 1 else 0,
        max_query_len=count,
        max_context_len=context,
        block_size=BLOCK_SIZE,
    )


def step(
    model: NativeDecoder,
    ids: torch.Tensor,
    rotary: RotaryStep,
    metadata: AttentionMetadata,
    cache: torch.Tensor,
    kept: torch.Tensor,
) -> torch.Tensor:
    """Token ids to logits."""
    return model.logits(model.forward(ids, rotary, metadata, cache, kept=kept))


def steps(bench: Bench, read_rate: float, context: int) -> None:
    """Whole steps, token ids to logits, against the time to read every weight once."""
    config = QWEN25_05B
    model = NativeDecoder(config, bench.weights, bench.native)
    floor = weights_nbytes(config, bench.dtype) / read_rate
    cos, sin = rope_tables(config, context + max(PROMPTS), "cpu")
    pages = max(ROWS) * -(-max(context, *PROMPTS) // BLOCK_SIZE) + 1
    cache = torch.zeros(
        2, config.num_layers, pages, BLOCK_SIZE, config.num_kv_heads, config.head_dim, dtype=bench.dtype
    )
    table = Table("step", "ms", "of the time to read the weights", "tokens/s", "GFLOP/s")
    shapes = [(rows, 1, context) for rows in ROWS] + [(1, count, count) for count in PROMPTS]
    for rows, count, end in shapes:
        metadata = step_metadata(rows, count, end)
        rotary = RotaryStep(cos[metadata.positions], sin[metadata.positions])
        ids, kept = torch.arange(rows * count), metadata.query_start[1:].long() - 1

        elapsed = bench.median_s(partial(step, model, ids, rotary, metadata, cache, kept))
        head = config.vocab_size * config.hidden_size
        body = weights_nbytes(config, bench.dtype) // bench.dtype.itemsize - head
        name = f"decode, {rows} rows at {end}" if count == 1 else f"prefill, {count} tokens"
        flops = 2 * (rows * count * body + rows * head)
        table.add_row(
            name,
            f"{elapsed * 1e3:.1f}",
            f"{elapsed / floor:.2f}",
            f"{rows * count / elapsed:.0f}",
            f"{flops / elapsed / 1e9:.0f}",
        )
    bench.console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--context", type=int, default=192, help="tokens each decode row attends to")
    parser.add_argument("--only", choices=("products", "steps"))
    arguments = parser.parse_args()
    console = Console()
    torch.set_num_threads(arguments.threads)
    native = load_native(arguments.threads)
    if native is None:
        raise SystemExit("the native kernels do not run here")
    dtype = getattr(torch, arguments.dtype)
    weights = load_weights("", QWEN25_05B, "cpu", dtype, "dummy")
    bench = Bench(native, weights, dtype, arguments.repeats, console)
    read_rate = bandwidth(bench)
    console.print(f"{native.instructions}, {native.threads} threads; memory reads {read_rate / 1e9:.1f} GB/s")
    if arguments.only != "steps":
        products(bench, read_rate)
    if arguments.only != "products":
        steps(bench, read_rate, arguments.context)


if __name__ == "__main__":
    main()
