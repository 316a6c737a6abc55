"""What one engine step costs the host: scheduling and results alone, on a runner that computes nothing.

    python -m benchmarks.scheduler_cost [--steps 400]

Pipelined decode steps of requests of 300 prompt tokens, with and without a long queue behind them.
"""

from __future__ import annotations

import argparse
import statistics
import time

from rich.console import Console

from benchmarks.instant_runner import InstantRunner
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import EngineRequest
from engine.sampling_params import SamplingParams

ROWS = (64, 256, 512)
QUEUES = (0, 10_000)
PROMPT = 300


def measure(rows: int, queued: int, steps: int) -> list[float]:
    """Seconds of each step with `rows` decode rows and `queued` requests behind them."""
    core = EngineCore(EngineConfig(model_path="", max_num_seqs=rows, max_num_batched_tokens=8192), InstantRunner())
    sampling = SamplingParams(max_tokens=1 << 19, eos_token_ids=(1, 2))
    for number in range(rows + queued):
        prompt = tuple(range(number, number + PROMPT))
        core.add_request(EngineRequest(str(number), prompt, sampling, arrival_s=float(number)))
    while any(sequence.num_uncomputed > 1 for sequence in core.scheduler.running) or not core.scheduler.running:
        core.step()
    times = []
    for _ in range(steps):
        began_s = time.perf_counter()
        core.step()
        times.append(time.perf_counter() - began_s)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print("| decode rows | waiting | step µs: median | least |\n| --- | --- | --- | --- |")
    for rows in ROWS:
        for queued in QUEUES:
            times = measure(rows, queued, steps)
            console.print(f"| {rows} | {queued} | {statistics.median(times) * 1e6:.0f} | {min(times) * 1e6:.0f} |")


if __name__ == "__main__":
    main()
