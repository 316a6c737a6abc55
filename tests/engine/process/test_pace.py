"""The next step is planned late enough to hold who arrives, and early enough that the device never runs dry."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.process.pace import LONGEST_WAIT_S, MARGIN_GROWTH, MARGIN_S, StepPace
from engine.runner.batch import StepBatch


@dataclass
class Batch:
    num_decode_rows: int
    num_tokens: int


@dataclass
class Pipeline:
    """A device that runs one step after another, and a loop that keeps up to two of them in flight. Seconds."""

    host_s: float
    now_s: float = 0.0
    planned_s: list[float] = field(default_factory=list)
    """When each step was planned."""
    began_s: list[float] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)
    paced: bool = True

    def __post_init__(self) -> None:
        self.pace = StepPace(lambda: self.now_s)
        self._collected = 0

    def step(self, length_s: float, rows: int = 8, tokens: int = 0) -> None:
        while self.paced and (rest_s := self.pace.rest_s()):
            self.now_s += rest_s + 1e-6
        self.pace.planning()
        self.planned_s.append(self.now_s)
        self.now_s += self.host_s
        self.pace.launched(cast(StepBatch, Batch(rows, rows + tokens)))
        self.began_s.append(max(self.now_s, self.ended_s[-1] if self.ended_s else 0.0))
        self.ended_s.append(self.began_s[-1] + length_s)
        if len(self.ended_s) - self._collected == 2:
            self.collect()

    def collect(self) -> None:
        self.now_s = max(self.now_s, self.ended_s[self._collected])
        self._collected += 1
        self.pace.collected()

    @property
    def idle_s(self) -> list[float]:
        """How long the device waited before each step but the first."""
        return [began - ended for began, ended in zip(self.began_s[1:], self.ended_s, strict=False)]


def test_nothing_is_waited_for_before_a_step_has_been_measured() -> None:
    pace = StepPace(lambda: 5.0)
    assert pace.rest_s() == 0.0
    pace.launched(cast(StepBatch, Batch(8, 8)))
    assert pace.rest_s() == 0.0
    pace.collected()
    assert pace.rest_s() == 0.0


def test_a_step_is_planned_shortly_before_the_running_one_ends() -> None:
    pipeline = Pipeline(host_s=0.0003)
    for _ in range(20):
        pipeline.step(0.004)
    left_s = [ended - planned for ended, planned in zip(pipeline.ended_s[3:], pipeline.planned_s[4:], strict=False)]
    expected_s = pytest.approx(1.5 * 0.0003 + MARGIN_S, abs=2e-5)
    assert left_s == [expected_s] * len(left_s)
    assert max(pipeline.idle_s) == 0.0


@given(st.floats(1e-5, 2e-3), st.lists(st.floats(1e-4, 0.2), min_size=1, max_size=4), st.integers(0, 2**32))
def test_the_device_never_waits_for_steps_of_steady_length(host_s: float, lengths_s: list[float], seed: int) -> None:
    """Kinds of steps in any order, each of one length: pacing adds no idle time to what the host itself costs."""
    order = random.Random(seed).choices(range(len(lengths_s)), k=60)
    paced, eager = Pipeline(host_s), Pipeline(host_s, paced=False)
    for kind in order:
        paced.step(lengths_s[kind], rows=8 * kind + 1)
        eager.step(lengths_s[kind], rows=8 * kind + 1)
    assert sum(paced.idle_s) <= sum(eager.idle_s) + 1e-3 * host_s
    assert paced.ended_s[-1] <= eager.ended_s[-1] + 1e-3 * host_s


def test_steps_that_become_shorter_cost_one_late_launch() -> None:
    pipeline = Pipeline(host_s=0.0003)
    for _ in range(20):
        pipeline.step(0.010)
    for _ in range(20):
        pipeline.step(0.004)
    assert len([idle for idle in pipeline.idle_s if idle > 1e-9]) == 1
    assert max(pipeline.idle_s) < 0.006
    left_s = pipeline.ended_s[-2] - pipeline.planned_s[-1]
    assert left_s == pytest.approx(1.5 * 0.0003 + MARGIN_S * MARGIN_GROWTH, rel=0.05)


def test_prompts_of_a_kind_differ_in_length() -> None:
    """Their steps are scaled by their tokens, so that the device is not late for the shorter ones."""
    order = random.Random(1).choices(range(385, 513), k=200)
    pipeline = Pipeline(host_s=0.0003)
    for tokens in order:
        pipeline.step(tokens / 46_000, rows=0, tokens=tokens)
    assert len([idle for idle in pipeline.idle_s if idle > 1e-9]) <= 1


def test_a_host_that_is_often_held_up_is_given_more_time() -> None:
    """Of 20 steps one takes the host 3 ms instead of 0.3: few of those find the device idle, after a while."""
    rng = random.Random(2)
    pipeline = Pipeline(host_s=0.0003)
    for _ in range(4000):
        pipeline.host_s = 0.003 if rng.random() < 0.05 else 0.0003
        pipeline.step(0.004)
    late = [idle > 1e-9 for idle in pipeline.idle_s]
    assert sum(late) <= 0.01 * len(late)
    pipeline.host_s = 0.0003
    for _ in range(2000):
        pipeline.step(0.004)
    left_s = pipeline.ended_s[-2] - pipeline.planned_s[-1]
    assert left_s == pytest.approx(1.5 * 0.0003 + MARGIN_S, abs=2e-5)


def test_a_host_slower_than_its_device_changes_nothing() -> None:
    """Steps that are over before the next one can be launched are not waited for, and no reason to be earlier."""
    pipeline = Pipeline(host_s=0.003)
    for _ in range(50):
        pipeline.step(0.001)
    pipeline.host_s = 0.0003
    for _ in range(100):
        pipeline.step(0.01, rows=100)
    left_s = pipeline.ended_s[-2] - pipeline.planned_s[-1]
    assert left_s == pytest.approx(1.5 * 0.0003 + MARGIN_S, abs=2e-5)


def test_a_wait_is_bounded() -> None:
    pipeline = Pipeline(host_s=0.001)
    pipeline.step(3.0)
    pipeline.step(3.0)
    assert pipeline.pace.rest_s() == LONGEST_WAIT_S


def test_arrivals_wait_for_less_than_one_step_instead_of_one_and_a_half() -> None:
    def mean_wait_s(pipeline: Pipeline) -> float:
        """From a moment of the middle until the step that is planned next after it begins."""
        for _ in range(300):
            pipeline.step(0.004)
        arrivals = [0.2 + 0.00037 * number for number in range(2000)]
        waits = []
        for arrival_s in arrivals:
            chosen = next(i for i, planned in enumerate(pipeline.planned_s) if planned >= arrival_s)
            waits.append(pipeline.began_s[chosen] - arrival_s)
        return sum(waits) / len(waits)

    eager, paced = mean_wait_s(Pipeline(0.0003, paced=False)), mean_wait_s(Pipeline(0.0003))
    assert eager == pytest.approx(1.5 * 0.004, rel=0.05)
    assert paced < 0.8 * 0.004
