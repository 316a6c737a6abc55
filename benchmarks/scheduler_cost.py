"""What one engine step costs the host: scheduling and results alone, on a runner that computes nothing.

    python -m benchmarks.scheduler_cost [--steps 400]

Pipelined decode steps of requests of 300 prompt tokens, with and without a long queue behind them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

from rich.console import Console

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import EngineRequest
from engine.runner.batch import SampledToken, StepBatch, StepResult
from engine.sampling_params import SamplingParams

ROWS = (64, 256, 512)
QUEUES = (0, 10_000)
PROMPT = 300


@dataclass(frozen=True, slots=True)
class DoneStep:
    outcome: StepResult

    def result(self) -> StepResult:
        return self.outcome


class IdleRunner:
    """Answers every row with the same token at once."""

    pipelined = True
    step_sizes = None
    block_size = 64
    num_blocks = 200_000
    max_model_len = 1 << 20

    def launch(self, batch: StepBatch) -> DoneStep:
        token = SampledToken(5)
        return DoneStep(StepResult(tuple([token if row.samples else None for row in batch.rows])))

    def requires_results(self, request: EngineRequest) -> bool:
        return request.needs_history

    def forget(self, slot: int) -> None:
        pass

    def prepare_more(self) -> bool:
        return False

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


def measure(rows: int, queued: int, steps: int) -> list[float]:
    """Seconds of each step with `rows` decode rows and `queued` requests behind them."""
    core = EngineCore(EngineConfig(model_path="", max_num_seqs=rows, max_num_batched_tokens=8192), IdleRunner())
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
