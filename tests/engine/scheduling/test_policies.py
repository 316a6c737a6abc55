"""The three policies: the aligned trace, the bound of the fair one, priorities, and laziness."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigurationError
from engine.request import EngineRequest, Phase, Sequence
from engine.sampling_params import SamplingParams
from engine.scheduling.aligned import AlignedShortestFirst
from engine.scheduling.policies import POLICIES, make_policy
from engine.scheduling.policy import SchedulingPolicy
from engine.scheduling.shortest_first import FairShortestFirst


def make_sequence(
    number: int,
    prompt: int = 10,
    max_tokens: int = 10,
    priority: int = 0,
    arrival_s: float | None = None,
    **sampling: Any,
) -> Sequence:
    request = EngineRequest(
        f"r{number}",
        tuple(range(prompt)),
        SamplingParams(max_tokens=max_tokens, **{"eos_token_ids": (2,), **sampling}),
        arrival_s=float(number) if arrival_s is None else arrival_s,
        priority=priority,
    )
    return Sequence(request, list(range(prompt)), prompt, number=number)


def decoding(number: int, length: int) -> Sequence:
    sequence = make_sequence(number, length)
    sequence.phase = Phase.RUNNING
    sequence.num_computed = length - 1
    return sequence


class Queue:
    """Waiting sequences with a policy that was told of them."""

    def __init__(self, policy: SchedulingPolicy, sequences: list[Sequence] | None = None) -> None:
        self.policy = policy
        self.waiting: dict[Sequence, None] = {}
        for sequence in sequences or []:
            self.arrive(sequence)

    def arrive(self, sequence: Sequence) -> None:
        sequence.phase = Phase.WAITING
        self.waiting[sequence] = None
        self.policy.arrived(sequence)

    def admit(self, count: int) -> list[Sequence]:
        admitted: list[Sequence] = []
        if count:
            for sequence in self.policy.admission_order(self.waiting, 0.0):
                del self.waiting[sequence]
                sequence.phase = Phase.RUNNING
                self.policy.admitted(sequence)
                admitted.append(sequence)
                if len(admitted) == count:
                    break
        return admitted

    def order(self) -> list[Sequence]:
        return list(self.policy.admission_order(self.waiting, 0.0))


def lengths_of(sequences: list[Sequence]) -> list[int]:
    return sorted(len(s.token_ids) for s in sequences)


def test_registry() -> None:
    assert {make_policy(name).name for name in POLICIES} == {"sjf", "aligned-sjf", "fcfs"}
    with pytest.raises(ConfigurationError, match="aligned-sjf"):
        make_policy("lifo")


# ---- aligned


def test_the_aligned_trace_step_by_step() -> None:
    policy = AlignedShortestFirst()
    running = [decoding(i, length) for i, length in enumerate([50, 52, 55, 60, 100])]
    expected = (
        [[50], [51]]
        + [[n, n] for n in (52, 53, 54)]
        + [[n] * 3 for n in range(55, 60)]
        + [[n] * 4 for n in range(60, 100)]
        + [[n] * 5 for n in range(100, 103)]
    )
    states: list[list[int]] = []
    for batch in expected:
        states.append(lengths_of(running))
        selected = list(policy.select_step(running))
        assert lengths_of(selected) == batch
        for sequence in selected:
            sequence.token_ids.append(0)
            sequence.num_computed += 1
    pair_begins = states.index([52, 52, 55, 60, 100])
    assert states[pair_begins - 2 : pair_begins] == [[50, 52, 55, 60, 100], [51, 52, 55, 60, 100]]
    assert states[pair_begins + 8] == [60, 60, 60, 60, 100]


def test_aligned_lets_a_new_prompt_walk_up_first() -> None:
    policy = AlignedShortestFirst()
    old, new = decoding(0, 30), make_sequence(1, 5)
    new.phase = Phase.RUNNING
    assert policy.select_step([old, new]) == [new]
    new.num_computed = 4
    assert policy.select_step([old, new]) == [new]
    new.num_computed, new.token_ids = 29, list(range(30))
    assert policy.select_step([old, new]) == [old, new]


def test_aligned_reads_prompts_of_one_length_together() -> None:
    policy = AlignedShortestFirst()
    running = [make_sequence(i, prompt) for i, prompt in enumerate([7, 5, 5, 9, 5])]
    assert [s.number for s in policy.select_step(running)] == [1, 2, 4]
    assert list(policy.select_step([])) == []


def test_aligned_admits_by_length() -> None:
    queue = Queue(AlignedShortestFirst(), [make_sequence(i, prompt) for i, prompt in enumerate([7, 5, 9, 5])])
    assert [s.number for s in queue.order()] == [1, 3, 0, 2]


# ---- sjf


def test_sjf_takes_the_least_work_and_every_fourth_time_the_oldest() -> None:
    works = [90, 50, 40, 30, 20, 10, 60, 70]
    queue = Queue(FairShortestFirst(), [make_sequence(i, 1, work) for i, work in enumerate(works)])
    assert [s.number for s in queue.admit(8)] == [5, 4, 3, 0, 2, 1, 6, 7]


def test_work_is_uncached_prompt_and_expected_output() -> None:
    policy = FairShortestFirst()
    sequence = make_sequence(0, 80, 100)
    assert policy.predicted_work(sequence) == 2 + 100
    sequence.num_cached = 40
    assert policy.predicted_work(sequence) == 1 + 100
    for length in (20, 40):
        ended = make_sequence(1, 5)
        ended.token_ids += [0] * length
        policy.finished(ended)
    assert policy.predicted_work(sequence) == 1 + 30
    assert policy.predicted_work(make_sequence(2, 40, 7)) == 1 + 7
    assert policy.predicted_work(make_sequence(3, 40, 100, min_tokens=50)) == 1 + 50
    assert policy.predicted_work(make_sequence(4, 40, 100, min_tokens=10)) == 1 + 30
    assert policy.predicted_work(make_sequence(5, 40, 100, eos_token_ids=())) == 1 + 100
    assert policy.predicted_work(make_sequence(6, 40, 100, eos_token_ids=(), stop_token_ids=(5,))) == 1 + 30


def test_the_queue_is_sorted_anew_when_the_mean_has_moved() -> None:
    policy = FairShortestFirst()
    queue = Queue(policy, [make_sequence(0, 400, 20), make_sequence(1, 40, 1000)])
    assert [s.number for s in queue.order()] == [0, 1]
    ended = make_sequence(9, 5)
    ended.token_ids += [0] * 20
    policy.finished(ended)
    assert [s.number for s in queue.order()] == [1, 0]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_nth_oldest_is_admitted_within_4n_admissions(data: st.DataObject) -> None:
    start = [make_sequence(i, 1, data.draw(st.integers(1, 50))) for i in range(data.draw(st.integers(1, 12)))]
    queue = Queue(FairShortestFirst(), start)
    ages = {sequence: n + 1 for n, sequence in enumerate(start)}
    admitted, number = 0, 100
    while any(sequence in queue.waiting for sequence in ages):
        for _ in range(data.draw(st.integers(0, 6))):  # whatever arrives later, here always shorter
            queue.arrive(make_sequence(number, 1, 1))
            number += 1
        for sequence in queue.admit(data.draw(st.integers(1, 3))):
            admitted += 1
            if sequence in ages:
                assert admitted <= 4 * ages[sequence]


def test_one_that_is_passed_over_keeps_its_turn() -> None:
    queue = Queue(FairShortestFirst(), [make_sequence(0, 1, 99)] + [make_sequence(i, 1, i) for i in range(1, 9)])
    queue.admit(3)
    for sequence in queue.policy.admission_order(queue.waiting, 0.0):
        if sequence.number:  # the oldest is offered, but waits for something
            del queue.waiting[sequence]
            sequence.phase = Phase.RUNNING
            queue.policy.admitted(sequence)
            if len(queue.waiting) <= 3:
                break
    assert queue.admit(1)[0].number == 0


# ---- all


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_orders_are_permutations_in_which_priority_rules(name: str, data: st.DataObject) -> None:
    policy = make_policy(name)
    queue = Queue(policy)
    number = 0
    running: list[Sequence] = []
    for action in data.draw(st.lists(st.sampled_from(["arrive", "admit", "abort", "preempt"]), max_size=40)):
        if action == "arrive":
            draw = st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2), st.floats(0, 3))
            queue.arrive(make_sequence(number, *data.draw(draw)))
            number += 1
        elif action == "admit":
            running += queue.admit(1)
        elif action == "abort" and queue.waiting:
            victim = data.draw(st.sampled_from(list(queue.waiting)))
            del queue.waiting[victim]
            victim.phase = Phase.FINISHED
        elif action == "preempt" and running:
            victim = next(iter(policy.preemption_order(running)))
            assert victim.request.priority == max(s.request.priority for s in running)
            running.remove(victim)
            victim.num_preemptions += 1
            queue.arrive(victim)
        order = queue.order()
        assert len(order) == len(queue.waiting)
        assert set(order) == set(queue.waiting)
        priorities = [s.request.priority for s in order]
        assert priorities == sorted(priorities)
        assert set(policy.preemption_order(running)) == set(running)
        selected = list(policy.select_step(running))
        assert set(selected) <= set(running)
        assert bool(selected) == bool(running)
        if name == "fcfs":
            assert order == sorted(order, key=lambda s: (s.request.priority, s.request.arrival_s, s.number))


@pytest.mark.parametrize("name", POLICIES)
def test_the_youngest_gives_way(name: str) -> None:
    running = [make_sequence(i, arrival_s=arrival) for i, arrival in enumerate([3.0, 1.0, 5.0, 2.0])]
    assert [s.number for s in make_policy(name).preemption_order(running)] == [2, 0, 3, 1]


@pytest.mark.parametrize("name", POLICIES)
def test_a_long_queue_costs_little_and_aborted_entries_go(name: str) -> None:
    rng = random.Random(1)
    queue = Queue(make_policy(name), [make_sequence(i, 3, rng.randrange(1, 500)) for i in range(10_000)])
    queue.admit(1)
    begin = time.thread_time()
    for _ in range(200):
        queue.admit(1)
    sorting_begin = time.thread_time()
    for _ in range(20):
        sorted(queue.waiting, key=lambda s: (s.request.priority, s.request.arrival_s, s.number))
    sorting_s = (time.thread_time() - sorting_begin) / 20
    assert (sorting_begin - begin) / 200 < sorting_s / 3
    for sequence in list(queue.waiting)[10:]:
        del queue.waiting[sequence]
        sequence.phase = Phase.FINISHED
    assert len(queue.order()) == 10
    heaps = [value for value in vars(queue.policy).values() if hasattr(value, "_entries")]
    assert heaps
    assert all(len(heap._entries) <= 100 for heap in heaps)
