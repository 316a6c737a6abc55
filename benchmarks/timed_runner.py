"""A runner whose steps take as long as those of Qwen2.5-7B on one H200, and compute nothing.

For the engine's loop, scheduler and pace in real time on a machine without a GPU. Steps run one after the other from
the moment of their launch, as on a stream of a device; the time in which the device had nothing to run is kept.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import instant_runner
from engine.config import EngineConfig
from engine.process.messages import EngineInfo
from engine.process.pace import StepPace
from engine.runner.batch import Report, StepBatch, StepResult, StepSizes

STEP_MS = ((1, 3.70), (8, 3.88), (16, 3.99), (32, 4.25), (64, 4.62), (128, 5.42), (256, 8.2))
"""Measured whole decode steps by rows (docs/performance.md); a token of a prompt counts as a row."""
PREFILL_TOKENS_PER_S = 46_000.0
"""Beyond the last of these."""
SPREAD = 0.01
"""Steps of one kind differ by so much (standard deviation)."""
LAUNCH_S = 0.0002
"""What the host needs to fill a step's buffers and to launch its graph, or its first kernel."""
GRAPH_TOKENS = 256
EAGER_LAUNCH_S = 0.003
"""Steps of more tokens are launched kernel by kernel, while the device runs them."""
SPIN_S = 0.0001


def step_s(tokens: int) -> float:
    """Seconds of a step with this many tokens, between the measured ones by straight lines."""
    sizes = [size for size, _ in STEP_MS]
    at = bisect.bisect_left(sizes, tokens)
    if at == len(sizes):
        return STEP_MS[-1][1] / 1e3 + (tokens - sizes[-1]) / PREFILL_TOKENS_PER_S
    if at == 0:
        return STEP_MS[0][1] / 1e3
    (low, low_ms), (high, high_ms) = STEP_MS[at - 1], STEP_MS[at]
    return (low_ms + (high_ms - low_ms) * (tokens - low) / (high - low)) / 1e3


def wait_until(moment_s: float) -> None:
    """As precisely as a device's event tells it: sleeps, then spins."""
    while (rest_s := moment_s - time.monotonic()) > 0:
        if rest_s > SPIN_S:
            time.sleep(rest_s - SPIN_S)


@dataclass(frozen=True, slots=True)
class TimedStep:
    end_s: float
    outcome: StepResult

    def result(self) -> StepResult:
        wait_until(self.end_s)
        return self.outcome


class TimedRunner(instant_runner.InstantRunner):
    step_sizes = StepSizes(free=256, busy=2048)

    def __init__(self, report_path: Path) -> None:
        super().__init__()
        self._report_path = report_path
        self._random = random.Random(0)
        self._end_s = 0.0
        self.busy_s = self.idle_s = 0.0
        """Idle: between two steps, where the second was launched too late, but by less than its own length."""

    def launch(self, batch: StepBatch) -> TimedStep:  # type: ignore[override]
        wait_until(time.monotonic() + LAUNCH_S)
        outcome = super().launch(batch).outcome
        now_s = time.monotonic()
        length_s = step_s(batch.num_tokens) * self._random.gauss(1.0, SPREAD)
        if batch.num_tokens > GRAPH_TOKENS:
            wait_until(now_s + EAGER_LAUNCH_S)
        if 0.0 < now_s - self._end_s < length_s:
            self.idle_s += now_s - self._end_s
        self._end_s = max(now_s, self._end_s) + length_s
        self.busy_s += length_s
        return TimedStep(self._end_s, outcome)

    def prepare_more(self) -> bool:
        """An idle moment: tell what has been counted."""
        self._report_path.write_text(json.dumps({"busy_s": self.busy_s, "idle_s": self.idle_s}))
        return False


def build(config: EngineConfig, report: Report) -> tuple[TimedRunner, EngineInfo]:
    """For the engine's process. TIMED_RUNNER_COUNTS names the file that it writes what it has counted to."""
    with contextlib.suppress(PermissionError):  # other work on the machine would be measured too
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    _, info = instant_runner.build(config, report)
    return TimedRunner(Path(os.environ["TIMED_RUNNER_COUNTS"])), info


def build_eager(config: EngineConfig, report: Report) -> tuple[TimedRunner, EngineInfo]:
    """The same, with every step planned as soon as the one before it runs."""
    StepPace.rest_s = lambda self: 0.0  # type: ignore[method-assign]
    return build(config, report)
