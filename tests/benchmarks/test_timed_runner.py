"""The runner that only takes time: steps as long as the measured ones, one after the other; idleness is counted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from benchmarks.timed_runner import LAUNCH_S, STEP_MS, TimedRunner, step_s
from engine.runner.batch import StepBatch


@dataclass
class Batch:
    num_tokens: int
    rows: tuple[object, ...] = ()


class Clock:
    """In the place of the module `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        self.now_s += 1e-6
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("benchmarks.timed_runner.time", clock)
    return clock


@pytest.fixture
def runner(clock: Clock, tmp_path: Path) -> TimedRunner:
    return TimedRunner(tmp_path / "counts.json")


def test_steps_take_what_was_measured_and_more_tokens_never_less() -> None:
    assert [step_s(tokens) for tokens, _ in STEP_MS] == pytest.approx([ms / 1e3 for _, ms in STEP_MS])
    lengths_s = [step_s(tokens) for tokens in range(1, 4096)]
    assert all(shorter <= longer for shorter, longer in itertools.pairwise(lengths_s))
    assert step_s(2304) - step_s(1152) == pytest.approx(1152 / 46_000)


def test_a_step_launched_while_another_runs_begins_when_that_ends(clock: Clock, runner: TimedRunner) -> None:
    first = runner.launch(cast(StepBatch, Batch(64)))
    second = runner.launch(cast(StepBatch, Batch(64)))
    assert second.end_s - first.end_s == pytest.approx(step_s(64), rel=0.1)
    second.result()
    assert clock.now_s == pytest.approx(second.end_s, abs=1e-5)
    assert runner.busy_s == pytest.approx(2 * step_s(64), rel=0.1)
    assert runner.idle_s == 0.0


def test_a_step_launched_late_leaves_the_device_idle(clock: Clock, runner: TimedRunner) -> None:
    runner.launch(cast(StepBatch, Batch(64))).result()
    clock.sleep(0.001)
    runner.launch(cast(StepBatch, Batch(64)))
    assert runner.idle_s == pytest.approx(0.001 + LAUNCH_S, abs=1e-5)


def test_a_pause_without_work_is_not_counted_as_idle(clock: Clock, runner: TimedRunner) -> None:
    runner.launch(cast(StepBatch, Batch(64))).result()
    clock.sleep(1.0)
    runner.launch(cast(StepBatch, Batch(64)))
    assert runner.idle_s == 0.0
