"""Whole decode steps with one product's tiling replaced after another: `python -m benchmarks.gpu_products MODEL_DIR`.

A product alone says little about a step: launches overlap, and what is left in the L2 cache differs. So every
candidate is captured into the graph of a step as it is served, on dummy weights, and what makes the step shorter is
kept for the next product. The best tilings go into `engine/runner/product_table.py`.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch

from engine.config import EngineConfig
from engine.kernels.skinny_gemm import SkinnyConfig, skinny_gemm
from engine.kernels.stream_config import StreamConfig
from engine.kernels.stream_gemm import stream_gemm
from engine.models.config import ModelConfig
from engine.runner.cuda_runner import CudaRunner
from engine.runner.factory import build_runner
from engine.runner.product_table import MULTIPROCESSORS, SHARED_BYTES, Table, Tiling

KINDS = ("gate_up", "down", "qkv", "o")
NOISE_MS = 0.003
REPEATS = 24


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def shape(model: ModelConfig, kind: str) -> tuple[int, int]:
    """(outputs, size) of the product; of gate_up the gates alone."""
    hidden, inner = model.hidden_size, model.intermediate_size
    attended = model.num_heads * model.head_dim
    shapes = {"gate_up": (inner, hidden), "down": (hidden, inner), "qkv": (model.qkv_width, hidden)}
    return shapes.get(kind, (hidden, attended))


def streamed(model: ModelConfig, kind: str, rows: int) -> list[Tiling]:
    """Streaming tilings whose programs are all resident at once, with as many stages as that leaves."""
    outputs, size = shape(model, kind)
    silu = kind == "gate_up"
    found: list[Tiling] = []
    for block_n, block_k in ((64, 64), (64, 128), (128, 64)):
        for splits in (1,) if silu else (1, 2, 3, 4, 5, 7):
            programs = -(-outputs // block_n) * splits
            stage = StreamConfig(block_n, block_k, splits, 4, 1).shared_bytes(rows, silu)
            stages = min(12, SHARED_BYTES // -(-programs // MULTIPROCESSORS) // stage, -(-size // block_k // splits))
            if stages >= 2 and programs >= MULTIPROCESSORS // 2:
                found.append(StreamConfig(block_n, block_k, splits, 4, stages))
    return found


def skinny(kind: str, rows: int) -> list[Tiling]:
    if kind == "gate_up":
        return [SkinnyConfig(n, 128, 1, rows > 16, 4, stages) for n in (32, 64) for stages in (3, 4)]
    return [SkinnyConfig(64, 128, splits, True, 4, 3) for splits in (1, 2, 3, 4, 5)]


def compile_all(model: ModelConfig, rows: int, candidates: dict[str, list[Tiling]]) -> None:
    """Compilers side by side: alone each takes half a second."""

    def compile_one(kind: str, tiling: Tiling) -> None:
        outputs, size = shape(model, kind)
        silu = kind == "gate_up"
        weight = torch.zeros((outputs * (2 if silu else 1), size), dtype=torch.bfloat16, device="cuda")
        x = torch.zeros((rows, size), dtype=torch.bfloat16, device="cuda")
        if isinstance(tiling, StreamConfig):
            stream_gemm(x, weight, tiling, silu, pdl=True)
        else:
            skinny_gemm(x, weight, tiling, silu, pdl=True)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda job: compile_one(*job), [(kind, t) for kind, some in candidates.items() for t in some]))
    torch.cuda.synchronize()


def step_ms(runner: CudaRunner, rows: int, context: int) -> float:
    """The shortest mean of three series of replayed steps."""
    layout, state = runner._layout, runner.state
    blocks = -(-(context + 3 * REPEATS + 8) // runner.block_size)
    times = []
    for attempt in range(3):
        state[layout.position : layout.position + rows] = context
        state[layout.row_slot : layout.row_slot + rows] = torch.arange(rows, dtype=torch.int32, device="cuda")
        for row in range(rows):
            at, first = layout.tables + row * layout.table_width, 1 + row * blocks
            state[at : at + blocks] = torch.arange(first, first + blocks, dtype=torch.int32, device="cuda")
        if attempt == 0:
            runner._sampling_graphs.capture(rows)
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(REPEATS):
            runner._sampling_graphs.run(rows)
        end.record()
        torch.cuda.synchronize()
        times.append(float(begin.elapsed_time(end)) / REPEATS)
    return min(times)


def search(runner: CudaRunner, rows: int, context: int) -> None:
    """Prints the step's time with each candidate; a product keeps what made the step shorter, None being cuBLAS."""
    model, products = runner._forward.config, runner._forward._products
    table: Table = products.table
    candidates = {kind: [*skinny(kind, rows), *streamed(model, kind, rows)] for kind in KINDS}
    compile_all(model, rows, candidates)
    best = step_ms(runner, rows, context)
    say(f"{rows} rows: {best:.3f} ms as it is")
    for kind in KINDS:
        kept = table[kind]
        for tiling in (None, *candidates[kind]):
            table[kind] = {} if tiling is None else {rows: tiling}
            try:
                found = step_ms(runner, rows, context)
            except (RuntimeError, MemoryError) as error:
                say(f"    {kind:8s} {tiling}: {error}")
                continue
            say(f"    {kind:8s} {found:.3f} ms  {tiling}")
            if found < best - NOISE_MS:
                best, kept = found, table[kind]
        table[kind] = kept
    say(f"{rows} rows: {best:.3f} ms with { ({kind: table[kind] for kind in KINDS}) }")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder with config.json; weights are random")
    parser.add_argument("--rows", default="8,16,32,64")
    parser.add_argument("--context", type=int, default=448)
    args = parser.parse_args()
    config = EngineConfig(args.model, device="cuda", load_format="dummy", max_model_len=8192, max_num_seqs=256)
    runner = cast(CudaRunner, build_runner(config, lambda phase, fraction, detail: None)[0])
    with torch.inference_mode():
        for rows in [int(number) for number in args.rows.split(",")]:
            search(runner, rows, args.context)


if __name__ == "__main__":
    main()
