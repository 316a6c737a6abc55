"""Which kernel is fastest where: matrix products by rows, attention by backend. `python -m benchmarks.gpu_kernels`.

Each candidate runs over several copies of its data, more than the L2 cache holds, inside one CUDA graph.
`benchmarks.gpu_products` tries the good ones in whole steps.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from engine.kernels.activation import silu_mul
from engine.kernels.gemv import gemv
from engine.kernels.skinny_gemm import SkinnyConfig, skinny_gemm

Run = Callable[[int], object]
SHAPES = {  # hidden, intermediate, qkv width, o width, vocab
    "qwen2.5-7b": (3584, 18944, 4608, 3584, 152064),
    "qwen3-8b": (4096, 12288, 6144, 4096, 151936),
    "qwen3-0.6b": (1024, 3072, 4096, 2048, 151936),
}
SWAPPED = [
    (64, 64, 4, 6), (64, 128, 4, 4), (64, 128, 4, 3), (64, 256, 4, 2),
    (128, 64, 4, 5), (128, 128, 8, 3), (128, 64, 8, 5), (128, 128, 4, 3),
]  # fmt: skip
PLAIN = [(16, 256, 4, 4), (32, 128, 4, 4), (32, 256, 4, 3), (64, 128, 4, 3), (16, 512, 4, 3)]
COPY_BYTES = 400 << 20


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def graph_us(run: Run, copies: int) -> float:
    """Median microseconds of one call, each call on its own copy of the data."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for number in range(copies):
            run(number)
    graph.replay()
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(float(begin.elapsed_time(end)) / copies * 1e3)
    return sorted(times)[2]


def products(shape: str) -> dict[str, tuple[int, int, bool]]:
    """Kind -> (outputs, size, swiglu)."""
    hidden, inner, qkv, o, vocab = SHAPES[shape]
    return {
        "qkv": (qkv, hidden, False),
        "o": (hidden, o, False),
        "gate_up": (inner, hidden, True),
        "down": (hidden, inner, False),
        "lm_head": (vocab, hidden, False),
    }


def candidates(kind: str, outputs: int, size: int, rows: int) -> list[SkinnyConfig]:
    """Tilings worth a try: enough programs to fill the chip, no split where the result is read as it is."""
    found = []
    for swap, tiles in ((True, SWAPPED), (False, PLAIN if rows <= 32 else [])):
        for block_n, block_k, warps, stages in tiles:
            programs = -(-outputs // block_n)
            padded = max(16, 1 << (rows - 1).bit_length())
            tile = block_k * (block_n * (2 if kind == "gate_up" else 1) + padded) * 2
            if tile * stages > 220_000:
                continue
            splits = [1]
            if kind in ("qkv", "o", "down"):
                fill = [round(f * 132 / programs) for f in (1, 2, 4)]
                splits = sorted({max(1, min(s, size // block_k // 4, 16)) for s in fill})
            found += [SkinnyConfig(block_n, block_k, s, swap, warps, stages) for s in splits]
    return found


def compile_one(job: tuple[str, SkinnyConfig, int]) -> str:
    """Fill Triton's disk cache for one candidate."""
    kind, config, rows = job
    try:
        size = config.block_k * 16 * max(2, config.splits)
        outputs = 16 * config.block_n
        x = torch.zeros(rows, size, device="cuda", dtype=torch.bfloat16)
        weight = torch.zeros(outputs * (2 if kind == "gate_up" else 1), size, device="cuda", dtype=torch.bfloat16)
        skinny_gemm(x, weight, config, silu=kind == "gate_up")
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - a candidate that does not compile is only left out
        return f"{config}: {error!r:.120}"
    return ""


def compile_all(rows_list: list[int], shapes: list[str]) -> None:
    jobs = {}
    for shape in shapes:
        for kind, (outputs, size, _) in products(shape).items():
            for rows in rows_list:
                for config in candidates(kind, outputs, size, rows):
                    split = min(config.splits, 2)
                    padded = max(16, 1 << (rows - 1).bit_length())
                    key = (kind == "gate_up", config._replace(splits=split), padded)
                    jobs[key] = (kind, config._replace(splits=split), padded)
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(14) as pool:
        wrong = [text for text in pool.map(compile_one, jobs.values(), chunksize=4) if text]
    say(f"compiled {len(jobs)} candidates in {time.perf_counter() - started:.0f} s, {len(wrong)} failed: {wrong[:3]}")


def sweep(shape: str, rows_list: list[int]) -> dict[str, dict[int, dict[str, object]]]:
    best: dict[str, dict[int, dict[str, object]]] = {}
    for kind, (outputs, size, silu) in products(shape).items():
        height = outputs * (2 if silu else 1)
        copies = max(2, min(12, COPY_BYTES // (height * size * 2)))
        weights = [torch.randn(height, size, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(copies)]
        for rows in rows_list:
            x = torch.randn(rows, size, device="cuda", dtype=torch.bfloat16)
            timed = product_times(kind, x, weights, silu)
            blas = next(micros for micros, name in timed if name == "cublas")
            timed.sort(key=lambda entry: entry[0])
            best.setdefault(kind, {})[rows] = {"cublas_us": blas, "best_us": timed[0][0], "best": timed[0][1]}
            rate = height * size * 2 / timed[0][0] / 1e6
            tail = "; ".join(f"{micros:.1f} {name}" for micros, name in timed[:4])
            say(f"{shape} {kind:8s} rows={rows:4d} cublas={blas:7.1f} us, best {rate:.2f} TB/s | {tail}")
    return best


def product_times(kind: str, x: torch.Tensor, weights: list[torch.Tensor], silu: bool) -> list[tuple[float, str]]:
    """(microseconds, name) of cuBLAS and of every candidate that computes the same."""
    rows, size = x.shape
    outputs = weights[0].shape[0] // (2 if silu else 1)

    def blas(number: int) -> torch.Tensor:
        out = F.linear(x, weights[number])
        return silu_mul(out) if silu else out

    timed = [(graph_us(blas, len(weights)), "cublas")]
    if rows == 1:
        return timed + gemv_times(x, weights, silu, len(weights))
    expected = blas(0).float()
    for config in candidates(kind, outputs, size, rows):
        run = functools.partial(run_skinny, x, weights, config, silu)
        try:
            out = run(0)
            error = float(((out.sum(0) if out.dim() == 3 else out).float() - expected).norm() / expected.norm())
            if error < 1e-2:
                timed.append((graph_us(run, len(weights)), str(tuple(config))))
            else:
                say(f"WRONG {kind} {rows} {config} {error}")
        except Exception as error:  # noqa: BLE001 - too much shared memory, say
            say(f"left out {kind} {rows} {config} {error!r:.80}")
    return timed


def run_skinny(
    x: torch.Tensor, weights: list[torch.Tensor], config: SkinnyConfig, silu: bool, number: int
) -> torch.Tensor:
    return skinny_gemm(x, weights[number], config, silu=silu)


def gemv_times(x: torch.Tensor, weights: list[torch.Tensor], silu: bool, copies: int) -> list[tuple[float, str]]:
    found = []
    for block_n, block_k, warps in ((8, 512, 4), (4, 512, 4), (4, 1024, 4), (2, 1024, 4), (16, 256, 4), (8, 1024, 8)):
        for pdl in (False, True):
            run = lambda i, n=block_n, k=block_k, w=warps, p=pdl: gemv(  # noqa: E731
                x, weights[i], silu=silu, block_n=n, block_k=k, num_warps=w, pdl=p
            )
            try:
                found.append((graph_us(run, copies), f"gemv n={block_n} k={block_k} w={warps} pdl={pdl}"))
            except Exception as error:  # noqa: BLE001 - left out
                say(f"left out gemv {block_n} {block_k} {error!r:.120}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="qwen2.5-7b")
    parser.add_argument("--rows", default="1,2,4,8,16,32,64,128")
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows_list, shapes = [int(rows) for rows in args.rows.split(",")], args.shapes.split(",")
    if args.compile_only:
        compile_all([rows for rows in rows_list if rows > 1], shapes)
        return
    found = {shape: sweep(shape, rows_list) for shape in shapes}
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
