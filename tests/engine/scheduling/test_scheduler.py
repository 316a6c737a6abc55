"""The scheduler through the loop: a state machine over all its entrances, and the scenes worth a name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import EngineRequest, RequestOutput
from engine.runner.batch import StepSizes
from engine.sampling_params import SamplingParams
from engine.scheduling.policies import POLICIES
from tests.support.engine_invariants import check_cache, check_core, check_idle
from tests.support.scripted_runner import ScriptedRunner, expected_stream


def make_core(runner: ScriptedRunner, **settings_: Any) -> EngineCore:
    fields = {"max_num_seqs": runner.max_num_seqs, "max_num_batched_tokens": 64} | settings_
    return EngineCore(EngineConfig(model_path="", **fields), runner)


def submit(core: EngineCore, name: str, prompt: list[int], max_tokens: int = 8, **fields: Any) -> EngineRequest:
    sampling = SamplingParams(max_tokens=max_tokens, seed=3, eos_token_ids=fields.pop("eos", ()))
    request = EngineRequest(name, tuple(prompt), sampling, **fields)
    core.add_request(request)
    return request


def rows_of(runner: ScriptedRunner) -> list[dict[str, tuple[int, int]]]:
    """Of every launched step: request id to (start, count)."""
    return [{row.sequence.request_id: (row.start, row.count) for row in batch.rows} for batch in runner.batches]


def run_dry(core: EngineCore) -> list[RequestOutput]:
    outputs: list[RequestOutput] = []
    for _ in range(2000):
        if not core.has_work():
            return outputs
        outputs += core.step()
    raise AssertionError("the engine does not come to rest")


class SchedulerMachine(RuleBasedStateMachine):
    """Submit, cancel, step, fault and squeeze in any order; at the end everything must come to rest."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        pipelined=st.booleans(),
        block_size=st.sampled_from([1, 3, 4]),
        seqs=st.integers(1, 4),
        budget=st.integers(4, 20),
        sizes=st.sampled_from([None, StepSizes(1, 1), StepSizes(3, 5)]),
    )
    def start(
        self, policy: str, pipelined: bool, block_size: int, seqs: int, budget: int, sizes: StepSizes | None
    ) -> None:
        self.runner = ScriptedRunner(1 + 40 // block_size, block_size, 24, seqs, budget, pipelined, sizes)
        self.core = make_core(self.runner, policy=policy, max_num_batched_tokens=budget)
        self.expected: dict[str, list[int]] = {}
        self.seen: dict[str, list[int]] = {}
        self.reports_prompt: dict[str, int] = {}
        """Requests whose prompt logprobs are still to come: how many."""
        self.hogged: list[list[int]] = []
        self.count = 0

    @rule(
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=20),
        max_tokens=st.integers(1, 12),
        priority=st.integers(0, 1),
        salt=st.sampled_from(["", "a"]),
        wishes=st.sampled_from([{}, {}, {"bad_words": ((5, 6),)}, {"prompt_logprobs": 1}, {"logprobs": 1}]),
        num_known=st.sampled_from([0, 0, 1, 4]),
        copies=st.sampled_from([1, 1, 3]),
    )
    def submit(
        self,
        prompt: list[int],
        max_tokens: int,
        priority: int,
        salt: str,
        wishes: dict[str, Any],
        num_known: int,
        copies: int,
    ) -> None:
        """New requests, resumed ones, and several over one prompt."""
        sampling = SamplingParams(max_tokens=max_tokens, seed=3, eos_token_ids=(0,), **wishes)
        for _ in range(copies):
            name = f"r{self.count}"
            self.count += 1
            fresh = EngineRequest(name, tuple(prompt), sampling, self.count, priority, salt)
            self.expected[name], _ = expected_stream(fresh, 24)
            self.seen[name] = self.expected[name][:num_known]
            self.core.add_request(msgspec.structs.replace(fresh, resumed_token_ids=tuple(self.seen[name])))
            if sampling.prompt_logprobs is not None and len(self.seen[name]) < len(self.expected[name]):
                self.reports_prompt[name] = len(prompt)

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            if self.core.has_work():
                self.take(self.core.step())

    def take(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            seen = self.seen[output.request_id]
            seen += output.token_ids
            assert seen == self.expected[output.request_id][: len(seen)]
            if output.finish_reason != "error":
                assert len(output.prompt_logprobs) == self.reports_prompt.pop(output.request_id, 0)
                assert None not in output.prompt_logprobs[1:]
            if output.finish_reason is not None:
                assert output.finish_reason == "error" or seen == self.expected[output.request_id]
                del self.seen[output.request_id]

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), by_stop_string=st.booleans())
    def cancel(self, data: st.DataObject, by_stop_string: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.seen)))
        self.core.cancel(name, len(self.seen[name]) if by_stop_string else None)
        del self.seen[name]

    @precondition(lambda self: self.core.memory.pool.available)
    @rule(share=st.integers(1, 3))
    def squeeze(self, share: int) -> None:
        pool = self.core.memory.pool
        self.hogged.append([pool.allocate() for _ in range(max(1, pool.available // share))])

    @precondition(lambda self: self.hogged)
    @rule()
    def relieve(self) -> None:
        self.core.memory.pool.release(self.hogged.pop())

    @rule(fault=st.sampled_from(["fail_launch", "fail_sampling", "fail_result"]))
    def fault(self, fault: str) -> None:
        if fault == "fail_sampling" and not self.runner.pipelined:
            return  # it samples within the launch
        setattr(self.runner, fault, RuntimeError("injected"))

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def fail_one(self, data: st.DataObject) -> None:
        self.runner.fail_rows.add(data.draw(st.sampled_from(sorted(self.seen))))

    @rule()
    def reset_cache(self) -> None:
        self.core.reset_prefix_cache()

    @invariant()
    def everything_holds(self) -> None:
        if hasattr(self, "core"):
            check_core(self.core, self.runner, self.hogged)
            check_cache(self.core, self.runner)

    def teardown(self) -> None:
        if hasattr(self, "core"):
            while self.hogged:
                self.relieve()
            self.take(run_dry(self.core))
            assert not self.seen
            check_idle(self.core, [])


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


@pytest.fixture(params=[False, True], ids=["direct", "pipelined"])
def runner(request: pytest.FixtureRequest) -> ScriptedRunner:
    return ScriptedRunner(pipelined=request.param, keep_batches=True)


# ---- one ragged step


def test_decode_rows_and_prefill_chunks_share_the_budget(runner: ScriptedRunner) -> None:
    core = make_core(runner, max_num_batched_tokens=10, enable_prefix_caching=False)
    submit(core, "short", [1, 2, 3])
    core.step()
    submit(core, "long", list(range(25)))
    for _ in range(4):
        core.step()
    assert rows_of(runner)[:4] == [
        {"short": (0, 3)},
        {"short": (3, 1), "long": (0, 9)},
        {"short": (4, 1), "long": (9, 9)},
        {"short": (5, 1), "long": (18, 7)},
    ]
    assert [batch.num_decode_rows for batch in runner.batches[:4]] == [0, 1, 1, 1]


def test_a_prompt_goes_along_with_decode_rows_in_small_chunks(runner: ScriptedRunner) -> None:
    runner.step_sizes = StepSizes(free=6, busy=20)
    core = make_core(runner, max_num_batched_tokens=64, max_num_seqs=8, enable_prefix_caching=False)
    submit(core, "a", [1] * 45, max_tokens=6)
    for _ in range(4):
        core.step()
    submit(core, "b", [2] * 9, max_tokens=2)
    while core.has_work():
        core.step()
    chunks = [[row.count for row in b.rows[b.num_decode_rows :]] for b in runner.batches]
    assert chunks[:7] == [[20], [20], [5], [], [5], [4], []]


def test_a_short_prompt_is_read_beside_a_long_one(runner: ScriptedRunner) -> None:
    core = make_core(runner, max_num_batched_tokens=10, enable_prefix_caching=False)
    submit(core, "long", [1] * 30)
    core.step()
    submit(core, "short", [2] * 4)
    submit(core, "medium", [3] * 6)
    for _ in range(3):
        core.step()
    assert rows_of(runner)[:4] == [
        {"long": (0, 10)},
        {"long": (10, 6), "short": (0, 4)},
        {"short": (4, 1), "long": (16, 9)},
        {"short": (5, 1), "long": (25, 5), "medium": (0, 4)},  # no room for it beside the long one until now
    ]


def test_no_more_run_than_there_are_slots(runner: ScriptedRunner) -> None:
    core = make_core(runner, max_num_seqs=3)
    for i in range(7):
        submit(core, f"r{i}", [i, 1])
    core.step()
    assert (core.stats().num_running, core.stats().num_waiting) == (3, 4)
    assert sorted(s.slot for s in core.scheduler.running) == [0, 1, 2]


def test_fewer_tokens_than_slots_leave_slots_empty(runner: ScriptedRunner) -> None:
    core = make_core(runner, max_num_batched_tokens=2)
    requests = [submit(core, f"r{i}", [i, 1, 2, 3]) for i in range(4)]
    ends = {output.request_id: output.finish_reason for output in run_dry(core) if output.finish_reason}
    assert ends == {request.request_id: "length" for request in requests}


# ---- shared prefixes


def test_siblings_wait_for_one_prefill_and_strangers_do_not(runner: ScriptedRunner) -> None:
    core = make_core(runner, max_num_batched_tokens=20, policy="fcfs")
    prompt = list(range(1, 18))
    submit(core, "first", prompt)
    submit(core, "second", prompt)
    submit(core, "stranger", [9, 9, 9])
    run_dry(core)
    steps = rows_of(runner)
    computed = {name: sum(s[name][1] for s in steps if name in s) for name in ("first", "second")}
    assert computed["first"] - computed["second"] == 16
    started = {name: next(i for i, s in enumerate(steps) if name in s) for name in ("first", "second", "stranger")}
    assert started["first"] == started["stranger"] < started["second"]


@pytest.mark.parametrize("fault", ["cancel", "fail"])
def test_a_sibling_computes_itself_when_the_first_is_gone(runner: ScriptedRunner, fault: str) -> None:
    core = make_core(runner, max_num_batched_tokens=4)
    prompt = list(range(1, 18))
    submit(core, "first", prompt)
    submit(core, "second", prompt)
    core.step()
    if fault == "cancel":
        core.cancel("first")
    else:
        runner.fail_result = RuntimeError("injected")
    assert {o.request_id for o in run_dry(core) if o.finish_reason == "length"} == {"second"}


def test_a_prefix_shared_in_part_is_computed_once(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    submit(core, "one", [1, 2, 3, 4, 5, 6, 7, 8, 20, 21])
    submit(core, "two", [1, 2, 3, 4, 5, 6, 7, 8, 30, 31])
    outputs = {o.request_id: o for o in reversed(run_dry(core))}
    assert outputs["two"].cached_tokens == 8


# ---- memory runs out


def test_the_youngest_is_preempted_and_comes_back_through_the_cache() -> None:
    runner = ScriptedRunner(num_blocks=17, block_size=4, keep_batches=True)
    core = make_core(runner)
    requests = [submit(core, f"r{i}", [i + 1] * 5, tokens, arrival_s=float(i)) for i, tokens in enumerate([40, 59])]
    outputs = run_dry(core)
    stats = core.stats()
    assert stats.preemptions >= 1
    assert stats.blocks_reused > 0
    for request in requests:
        tokens = [t for o in outputs if o.request_id == request.request_id for t in o.token_ids]
        assert tokens == expected_stream(request, 64)[0]
    starts = {name: [s[name][0] for s in rows_of(runner) if name in s] for name in ("r0", "r1")}
    assert starts["r0"] == sorted(starts["r0"])  # the older one was never interrupted


def test_results_are_collected_before_anyone_is_preempted() -> None:
    runner = ScriptedRunner(num_blocks=9, block_size=4, max_model_len=32, pipelined=True, keep_batches=True)
    core = make_core(runner)
    submit(core, "ends", [1] * 12, 4, arrival_s=0.0)
    submit(core, "grows", [2] * 13, 18, arrival_s=1.0)
    core.step()
    hog = [core.memory.pool.allocate() for _ in range(core.memory.pool.available)]
    run_dry_steps = 0
    while core.has_work() and run_dry_steps < 12:
        core.step()
        run_dry_steps += 1
    core.memory.pool.release(hog)
    run_dry(core)
    assert core.stats().requests_finished == 2


def test_a_large_request_is_not_passed_for_ever_by_small_ones(runner: ScriptedRunner) -> None:
    tight = ScriptedRunner(num_blocks=17, block_size=4, max_num_seqs=8, pipelined=runner.pipelined)
    core = make_core(tight, policy="sjf")
    submit(core, "large", list(range(50)), 10, arrival_s=0.0)
    finished: list[str] = []
    for i in range(400):
        if core.stats().num_waiting < 6:
            submit(core, f"small{i}", [i % 7, i % 5], 3, arrival_s=1.0 + i)
        finished += [o.request_id for o in core.step() if o.finish_reason]
        if "large" in finished:
            break
    assert "large" in finished


# ---- aligned, end to end


def lengths_by_step(runner: ScriptedRunner) -> list[list[int]]:
    return [sorted(row.start + row.count for row in batch.rows) for batch in runner.batches]


def test_aligned_runs_only_the_shortest_until_they_meet(runner: ScriptedRunner) -> None:
    core = make_core(runner, policy="aligned-sjf", enable_prefix_caching=False)
    for i, length in enumerate([5, 7, 5]):
        submit(core, f"r{i}", [i] * length, 6)
    run_dry(core)
    assert lengths_by_step(runner) == [
        [5, 5],
        [7],
        *[[n, n] for n in (6, 7)],
        *[[n] * 3 for n in (8, 9, 10)],
        [11],
        [12],
    ]


def test_aligned_waits_for_arrivals_and_goes_on_after_finishes() -> None:
    runner = ScriptedRunner(keep_batches=True)
    core = make_core(runner, policy="aligned-sjf", enable_prefix_caching=False)
    submit(core, "old", [1] * 6, 8)
    for _ in range(3):
        core.step()
    submit(core, "new", [2] * 3, 4)
    run_dry(core)
    assert rows_of(runner) == [
        {"old": (0, 6)},
        {"old": (6, 1)},
        {"old": (7, 1)},
        {"new": (0, 3)},  # everyone waits for the newcomer, which is done before it has caught up
        {"new": (3, 1)},
        {"new": (4, 1)},
        {"new": (5, 1)},
        *[{"old": (n, 1)} for n in range(8, 13)],
    ]


def test_aligned_survives_preemption() -> None:
    runner = ScriptedRunner(num_blocks=11, block_size=4, max_model_len=40, keep_batches=True)
    core = make_core(runner, policy="aligned-sjf")
    requests = [submit(core, f"r{i}", [i + 1] * 4, 30, arrival_s=float(i)) for i in range(2)]
    outputs = run_dry(core)
    assert core.stats().preemptions > 0
    for request in requests:
        tokens = [t for o in outputs if o.request_id == request.request_id for t in o.token_ids]
        assert tokens == expected_stream(request, 40)[0]
    for batch in runner.batches:
        assert len({(row.start, row.count) for row in batch.rows}) == 1  # every step is a rectangle


def test_aligned_reads_equal_prompts_together(runner: ScriptedRunner) -> None:
    core = make_core(runner, policy="aligned-sjf")
    for i in range(3):
        submit(core, f"r{i}", [4] * 9)
    core.step()
    assert rows_of(runner)[0] == {f"r{i}": (0, 9) for i in range(3)}
