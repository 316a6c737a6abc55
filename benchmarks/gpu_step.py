"""What one engine step costs on the GPU, without HTTP: `python -m benchmarks.gpu_step MODEL_DIR --rows 1,8,64`.

Runs the engine's own loop in this process on dummy weights: prefills a batch, then times decode steps on the wall
clock and tells how much of that was the host's (everything but waiting for the device). `--profile` adds the kernels
of one step, by time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.models.config import ModelConfig
from engine.request import EngineRequest
from engine.runner import cuda_build, cuda_results
from engine.runner.cuda_products import Products
from engine.runner.factory import build_runner
from engine.sampling_params import SamplingParams


class Waiting:
    """Time spent waiting for the device, seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        collect = cuda_results.LaunchedStep.result

        def timed(step: cuda_results.LaunchedStep) -> object:
            started = time.perf_counter()
            if step._event is not None:
                step._event.synchronize()
            self.seconds += time.perf_counter() - started
            return collect(step)

        cuda_results.LaunchedStep.result = timed  # type: ignore[method-assign,assignment]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def sampling_of(args: argparse.Namespace, max_tokens: int) -> SamplingParams:
    return SamplingParams(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        repetition_penalty=args.repetition_penalty,
        seed=1,
        max_tokens=max_tokens,
    )


def fill(core: EngineCore, rows: int, args: argparse.Namespace, seed: int) -> float:
    """Admit `rows` fresh prompts and run until all of them decode; seconds of prefill."""
    chooser = random.Random(seed)
    sampling = sampling_of(args, args.steps + 20)
    for number in range(rows):
        prompt = tuple(chooser.randrange(100, 150000) for _ in range(args.context))
        core.add_request(EngineRequest(f"{seed}-{number}", prompt, sampling=sampling))
    torch.cuda.synchronize()
    started = time.perf_counter()
    first: set[str] = set()
    while len(first) < rows:
        first.update(output.request_id for output in core.step())
    return time.perf_counter() - started


def kernels_of_a_step(core: EngineCore) -> list[tuple[str, int, float]]:
    """(kernel, launches, microseconds) of one step, the longest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(3):
            core.step()
        torch.cuda.synchronize()
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in trace.events():
        if event.device_type.name == "CUDA":
            totals[event.name][0] += 1
            totals[event.name][1] += event.device_time
    found = [(name, round(count / 3), micros / 3) for name, (count, micros) in totals.items()]
    return sorted(found, key=lambda entry: -entry[2])


def measure(core: EngineCore, rows: int, args: argparse.Namespace, waiting: Waiting) -> dict[str, Any]:
    prefill_s = fill(core, rows, args, rows)
    for _ in range(5):
        core.step()
    waiting.seconds, walls = 0.0, []
    begun = time.perf_counter()
    for _ in range(args.steps):
        started = time.perf_counter()
        core.step()
        walls.append(time.perf_counter() - started)
    total = time.perf_counter() - begun
    result: dict[str, object] = {
        "rows": rows,
        "step_ms": 1e3 * total / args.steps,
        "step_median_ms": 1e3 * statistics.median(walls),
        "host_ms": 1e3 * (total - waiting.seconds) / args.steps,
        "tokens_per_s": rows * args.steps / total,
        "prefill_s": prefill_s,
        "prefill_tokens_per_s": rows * args.context / prefill_s,
    }
    if args.profile:
        result["kernels"] = kernels_of_a_step(core)
    while core.has_work():
        core.step()
    return result


def closed_loop(core: EngineCore, clients: int, args: argparse.Namespace) -> dict[str, Any]:
    """What serving would give if HTTP cost nothing: each client sends its next prompt when its last one ended."""
    chooser = random.Random(clients)
    sampling = sampling_of(args, 256)
    left, tokens, numbers, gaps = 2 * clients, 0, 0, []

    def send() -> None:
        nonlocal left, numbers
        left, numbers = left - 1, numbers + 1
        prompt = tuple(chooser.randrange(100, 150000) for _ in range(chooser.randint(128, 512)))
        core.add_request(EngineRequest(f"loop-{clients}-{numbers}", prompt, sampling=sampling))

    for _ in range(clients):
        send()
    begun = last = time.perf_counter()
    while core.has_work():
        for output in core.step():
            tokens += len(output.token_ids)
            if output.finish_reason and left:
                send()
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    seconds = time.perf_counter() - begun
    return {
        "clients": clients,
        "tokens_per_s": tokens / seconds,
        "steps": len(gaps),
        "step_p50_ms": 1e3 * statistics.median(gaps),
        "step_p99_ms": 1e3 * sorted(gaps)[int(0.99 * len(gaps))],
        "seconds": seconds,
    }


def plain_products(model: ModelConfig, dtype: torch.dtype, capability: tuple[int, int]) -> Products:
    return Products()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder with config.json; weights are random")
    parser.add_argument("--rows", default="1,8,64")
    parser.add_argument("--context", type=int, default=448, help="tokens of each prompt")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--attention-backend", default="auto")
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain-products", action="store_true", help="cuBLAS for everything, no overlap")
    parser.add_argument("--closed-loop", default="", help="numbers of clients to simulate, prompts 128-512, 256 out")
    args = parser.parse_args()
    if args.plain_products:
        cuda_build.choose_products = plain_products
    sizes = [int(size) for size in args.rows.split(",")]
    config = EngineConfig(
        args.model,
        device="cuda",
        load_format="dummy",
        max_model_len=8192,
        max_num_seqs=max(*sizes, *(int(c) for c in args.closed_loop.split(",") if c), 1),
        attention_backend=args.attention_backend,
        enforce_eager=args.enforce_eager,
    )
    started = time.perf_counter()
    runner, info = build_runner(config, lambda phase, fraction, detail: None)
    built = time.perf_counter()
    runner.warm_up()
    warm = time.perf_counter()
    graphs = 0
    while runner.prepare_more():
        graphs += 1
    say(
        f"{Path(args.model).name}: attention {info.attention_backend} ({info.attention_reason}), "
        f"{info.num_blocks} blocks of {info.block_size}, built in {built - started:.1f} s, "
        f"warm after {warm - built:.1f} s more, "
        f"{graphs} graphs of steps with chunks in {time.perf_counter() - warm:.1f} s"
    )
    core, waiting = EngineCore(config, runner), Waiting()
    results: list[dict[str, Any]] = []
    for rows in sizes:
        results.append(found := measure(core, rows, args, waiting))
        say(
            "  ".join(
                f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items() if k != "kernels"
            )
        )
        for name, count, micros in found.get("kernels", [])[:14]:
            say(f"    {micros:9.1f} us  {count:4d} x  {name[:110]}")
    for clients in [int(c) for c in args.closed_loop.split(",") if c]:
        found = closed_loop(core, clients, args)
        results.append(found)
        say(
            "closed loop "
            + "  ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items())
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
