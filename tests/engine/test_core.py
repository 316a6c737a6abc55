"""The engine's loop on the scripted runner: outputs, ends, errors, pipelining."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.errors import ContextLengthError, EngineDeadError, RequestError
from engine.request import EngineRequest, GrammarSpec, RequestOutput
from engine.sampling_params import SamplingParams
from engine.scheduling.intake import make_sequence
from engine.scheduling.queue_watch import QueueWatch, oldest_of
from engine.scheduling.shortest_first import FairShortestFirst
from tests.support.scripted_runner import ScriptedRunner, expected_stream


def make_core(runner: ScriptedRunner, **settings: Any) -> EngineCore:
    settings = {"max_num_seqs": runner.max_num_seqs, "max_num_batched_tokens": 16} | settings
    return EngineCore(EngineConfig(model_path="", **settings), runner)


def make_request(request_id: str, prompt: tuple[int, ...], **fields: Any) -> EngineRequest:
    own = {name: fields.pop(name) for name in list(fields) if name in EngineRequest.__struct_fields__}
    return EngineRequest(request_id, prompt, SamplingParams(**({"max_tokens": 8, "seed": 7} | fields)), **own)


def run_dry(core: EngineCore, limit: int = 500) -> dict[str, list[RequestOutput]]:
    outputs: dict[str, list[RequestOutput]] = {}
    for _ in range(limit):
        if not core.has_work():
            break
        for output in core.step():
            outputs.setdefault(output.request_id, []).append(output)
    assert not core.has_work()
    stats = core.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)
    return outputs


def tokens_of(outputs: list[RequestOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


@pytest.fixture(params=[False, True], ids=["direct", "pipelined"])
def runner(request: pytest.FixtureRequest) -> ScriptedRunner:
    return ScriptedRunner(pipelined=request.param)


def test_every_stream_is_the_expected_one(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    requests = [make_request(f"r{i}", tuple(range(1, 3 + 2 * i)), eos_token_ids=(0,), seed=i) for i in range(12)]
    for request in requests:
        core.add_request(request)
    outputs = run_dry(core)
    for request in requests:
        expected, reason = expected_stream(request, runner.max_model_len)
        assert tokens_of(outputs[request.request_id]) == expected
        assert [o.finish_reason for o in outputs[request.request_id]] == [None] * (len(expected) - 1) + [reason]
    stats = core.stats()
    assert stats.requests_finished == 12
    assert stats.prompt_tokens == sum(len(r.prompt_token_ids) for r in requests)
    assert stats.generated_tokens == sum(len(tokens_of(o)) for o in outputs.values())


def test_pipelining_launches_before_it_collects() -> None:
    runner = ScriptedRunner(pipelined=True)
    core = make_core(runner)
    core.add_request(make_request("a", (1, 2, 3)))
    assert core.step() == []
    assert (runner.num_launched, runner.num_collected) == (1, 0)
    assert len(core.step()) == 1
    assert (runner.num_launched, runner.num_collected) == (2, 1)


def test_a_row_at_its_limit_is_not_launched_once_more() -> None:
    runner = ScriptedRunner(pipelined=True, keep_batches=True)
    core = make_core(runner)
    core.add_request(make_request("a", (1, 2, 3), max_tokens=4))
    run_dry(core)
    assert len(runner.batches) == 4


@pytest.mark.parametrize("fields", [{"bad_words": ((5, 6),)}, {"grammar": GrammarSpec("regex", "a*")}])
def test_rows_that_need_history_are_sampled_once_it_is_known(fields: dict[str, Any]) -> None:
    """And keep nobody from launching ahead."""
    runner = ScriptedRunner(pipelined=True)  # checks it itself in every step
    core = make_core(runner)
    core.add_request(make_request("plain", (1, 2, 3)))
    request = make_request("needy", (1, 2, 4), **fields)
    core.add_request(request)
    outputs = run_dry(core)
    assert tokens_of(outputs["needy"]) == expected_stream(request, 64)[0]


def test_min_tokens_and_the_requests_own_stop_ids(runner: ScriptedRunner) -> None:
    request = make_request("a", (5, 6), stop_token_ids=tuple(range(29)), min_tokens=3, max_tokens=9)
    core = make_core(runner)
    core.add_request(request)
    outputs = run_dry(core)["a"]
    assert len(tokens_of(outputs)) == 4
    assert outputs[-1].finish_reason == "stop"
    assert outputs[-1].stop_token_id == tokens_of(outputs)[-1]


def test_the_context_ends_a_request(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    core.add_request(make_request("a", tuple(range(60)), max_tokens=100))
    outputs = run_dry(core)["a"]
    assert len(tokens_of(outputs)) == 4
    assert outputs[-1].finish_reason == "length"


def test_what_can_never_fit_is_refused_up_front(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    with pytest.raises(ContextLengthError, match="maximum context length is 64 tokens"):
        core.add_request(make_request("a", tuple([1] * 64)))
    small = make_core(ScriptedRunner(num_blocks=5))
    with pytest.raises(ContextLengthError, match="holds only 16"):
        small.add_request(make_request("a", tuple([1] * 16)))
    for prompt in ((), (-1,), (2**31,)):
        with pytest.raises(RequestError):
            core.add_request(make_request("a", prompt))
    core.add_request(make_request("a", (1,)))
    with pytest.raises(RequestError, match="running already"):
        core.add_request(make_request("a", (1,)))
    run_dry(core)


def test_a_request_uses_the_whole_cache_if_it_must(runner: ScriptedRunner) -> None:
    tiny = ScriptedRunner(num_blocks=17, pipelined=runner.pipelined)
    core = make_core(tiny)
    core.add_request(make_request("a", tuple([1] * 5), max_tokens=100))
    core.add_request(make_request("b", tuple([2] * 5), max_tokens=100))
    outputs = run_dry(core)
    assert {name: len(tokens_of(o)) for name, o in outputs.items()} == {"a": 59, "b": 59}
    assert core.stats().preemptions > 0


def test_prompt_logprobs_come_whole_with_the_first_output(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    prompt = tuple(range(1, 24))
    core.add_request(make_request("warm", prompt))
    run_dry(core)
    core.add_request(make_request("a", prompt, prompt_logprobs=1))
    first, *others = run_dry(core)["a"]
    assert first.cached_tokens == 0
    assert first.prompt_logprobs[0] is None
    assert [entry.rank for entry in first.prompt_logprobs[1:] if entry] == list(range(1, 23))
    assert all(not output.prompt_logprobs for output in others)


def test_no_tokens_but_prompt_logprobs(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    core.add_request(make_request("a", (1, 2, 3), max_tokens=0, prompt_logprobs=0))
    core.add_request(make_request("b", (1, 2, 3), max_tokens=0))
    outputs = run_dry(core)
    assert [(o.token_ids, o.finish_reason, len(o.prompt_logprobs)) for o in outputs["a"]] == [((), "length", 3)]
    assert [(o.token_ids, o.finish_reason) for o in outputs["b"]] == [((), "length")]


def test_a_resumed_request_goes_on_where_it_was(runner: ScriptedRunner) -> None:
    whole = make_request("a", (3, 1, 4), max_tokens=9)
    expected, _ = expected_stream(whole, 64)
    for known in range(10):
        core = make_core(ScriptedRunner(pipelined=runner.pipelined))
        core.add_request(make_request("a", (3, 1, 4), max_tokens=9, resumed_token_ids=tuple(expected[:known])))
        outputs = run_dry(core)["a"]
        assert tokens_of(outputs) == expected[known:]
        assert outputs[-1].finish_reason == "length"


def test_a_resumed_request_that_had_stopped_ends_at_once(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    core.add_request(make_request("a", (3, 1, 4), eos_token_ids=(9,), resumed_token_ids=(8, 9)))
    (output,) = run_dry(core)["a"]
    assert (output.token_ids, output.finish_reason, output.stop_token_id) == ((), "stop", 9)
    assert runner.num_launched == 0


def test_nothing_is_said_of_a_request_that_was_cancelled_before_its_end_was_told(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    for name in ("a", "b"):
        core.add_request(make_request(name, (3, 1, 4), eos_token_ids=(9,), resumed_token_ids=(8, 9)))
    core.cancel("a")
    assert list(run_dry(core)) == ["b"]


def test_equal_prompts_share_one_prefill(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    prompt = tuple(range(1, 14))
    for i in range(4):
        core.add_request(make_request(f"s{i}", prompt, seed=i))
    outputs = run_dry(core)
    assert [outputs[f"s{i}"][0].cached_tokens for i in range(4)] == [0, 12, 12, 12]
    assert core.stats().blocks_reused == 9


def test_no_more_than_the_prompt_counts_as_cached(runner: ScriptedRunner) -> None:
    """A resumed request may share blocks of another's output, too."""
    core = make_core(runner)
    for name in ("a", "b"):
        core.add_request(make_request(name, (1, 2, 3, 4, 5), resumed_token_ids=(6, 7, 8, 9, 10), max_tokens=9))
    outputs = run_dry(core)
    assert [outputs[name][0].cached_tokens for name in ("a", "b")] == [0, 5]
    assert core.stats().prefix_hits_tokens == 8


def test_salts_part_the_cache(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    for i, salt in enumerate(("x", "y", "x")):
        core.add_request(make_request(f"s{i}", tuple(range(1, 14)), cache_salt=salt))
        assert run_dry(core)[f"s{i}"][0].cached_tokens == (12 if i == 2 else 0)
    core.reset_prefix_cache()
    core.add_request(make_request("after", tuple(range(1, 14)), cache_salt="x"))
    assert run_dry(core)["after"][0].cached_tokens == 0


@pytest.mark.parametrize("phase", range(8))
def test_a_cancelled_request_leaves_nothing(runner: ScriptedRunner, phase: int) -> None:
    core = make_core(runner)
    core.add_request(make_request("gone", tuple(range(1, 40))))
    core.add_request(make_request("stays", (1, 2, 3)))
    for _ in range(phase):
        core.step()
    core.cancel("gone")
    core.cancel("gone")
    core.cancel("nobody")
    assert core.stats().kv_blocks_used <= 3
    assert "gone" not in run_dry(core)
    assert core.stats().requests_aborted == 1


def test_first_outputs_carry_times_and_stats_tell_of_the_oldest_in_the_queue(runner: ScriptedRunner) -> None:
    now_s = 100.0
    core = EngineCore(
        EngineConfig(model_path="", max_num_seqs=1, max_num_batched_tokens=16, policy="sjf"),
        runner,
        clock=lambda: now_s,
    )
    core.add_request(make_request("first", (1, 2), max_tokens=3, arrival_s=99.0))
    outputs = core.step()
    core.add_request(make_request("oldest", (1, 2, 3), max_tokens=90, arrival_s=101.0))
    for i in range(3):
        core.add_request(make_request(f"short {i}", (4, i), max_tokens=2, arrival_s=102.0))
    seen: list[tuple[int, float]] = []
    while core.has_work():
        now_s += 1.0
        outputs += core.step()
        seen.append((core.stats().oldest_bypassed, core.stats().oldest_wait_s))
    times = {o.request_id: o.times for o in outputs if o.times is not None}
    assert list(times) == ["first", "short 0", "short 1", "oldest", "short 2"]
    assert times["first"].scheduled_s == 100.0
    assert all(t.scheduled_s <= t.first_token_s for t in times.values())
    assert max(bypassed for bypassed, _ in seen) == 2
    assert seen[-1] == (0, 0.0)
    assert any(wait_s > 3 for _, wait_s in seen)
    assert core.stats().policy == "sjf"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_bypass_count_is_the_slow_one(data: st.DataObject) -> None:
    watch, waiting, slow = QueueWatch(), [], []
    for number in range(data.draw(st.integers(1, 60))):
        waiting.append(make_sequence(make_request(f"{number}", (1,)), number, 64, 64))
        while waiting and data.draw(st.booleans()):
            admitted = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            slow.append(admitted.number)
            watch.admitted(admitted, waiting)
        if waiting and data.draw(st.booleans()):
            waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))  # its client has left
        if waiting:
            oldest = oldest_of(waiting)
            assert watch.bypassed(oldest) == sum(number > oldest.number for number in slow)


@pytest.mark.parametrize("phase", range(1, 8))
def test_what_a_stop_string_ended_is_finished_and_the_policy_learns_its_length(
    runner: ScriptedRunner, phase: int
) -> None:
    core = make_core(runner, policy="sjf")
    assert isinstance(policy := core.scheduler.policy, FairShortestFirst)
    core.add_request(make_request("stopped", tuple(range(1, 10)), max_tokens=500))
    core.add_request(make_request("stays", (1, 2, 3)))
    for _ in range(phase):
        core.step()
    sequence = core.scheduler.live["stopped"]
    length = min(2, max(sequence.num_output - sequence.num_in_flight, 0))
    core.cancel("stopped", length)
    core.cancel("stopped", length)
    assert (sequence.finish_reason, sequence.num_output) == ("stop", length)
    following = make_sequence(make_request("next", (1,), max_tokens=99, eos_token_ids=(2,)), 9, 64, 64)
    assert policy.predicted_work(following) == pytest.approx(1 / 40 + max(length, 1))
    assert core.stats().requests_aborted == 0
    assert core.stats().requests_finished == 1
    assert "stopped" not in run_dry(core)


FAULTS = ["fail_launch", "fail_sampling", "fail_result"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_step_costs_its_requests_only(runner: ScriptedRunner, fault: str) -> None:
    if fault == "fail_sampling" and not runner.pipelined:
        pytest.skip("samples within the launch")
    core = make_core(runner, max_num_seqs=2)
    for i in range(4):
        core.add_request(make_request(f"r{i}", (i, 2, 3)))
    early = core.step() + core.step()
    setattr(runner, fault, RuntimeError("device-side assert"))
    outputs = run_dry(core)
    ends = {name: list_[-1].finish_reason for name, list_ in outputs.items()}
    assert ends == {"r0": "error", "r1": "error", "r2": "length", "r3": "length"}
    assert all(o.error for list_ in outputs.values() for o in list_ if o.finish_reason == "error")
    assert all(o.finish_reason is None for o in early)


def test_a_failing_row_costs_itself_only(runner: ScriptedRunner) -> None:
    core = make_core(runner)
    core.add_request(make_request("bad", (1, 2, 3)))
    core.add_request(make_request("good", (1, 2, 4)))
    runner.fail_rows = {"bad"}
    outputs = run_dry(core)
    assert [(o.finish_reason, o.error) for o in outputs["bad"]] == [("error", "NaN")]
    assert len(tokens_of(outputs["good"])) == 8


@pytest.mark.parametrize("fault", FAULTS)
def test_a_dead_device_is_not_swallowed(runner: ScriptedRunner, fault: str) -> None:
    if fault == "fail_sampling" and not runner.pipelined:
        pytest.skip("samples within the launch")
    core = make_core(runner)
    core.add_request(make_request("a", (1, 2, 3)))
    setattr(runner, fault, EngineDeadError("gone"))
    with pytest.raises(EngineDeadError):
        run_dry(core)


def test_rates_and_fragmentation() -> None:
    now = [0.0]
    runner = ScriptedRunner()
    config = EngineConfig(model_path="", max_num_seqs=8, max_num_batched_tokens=16)
    core = EngineCore(config, runner, clock=lambda: now[0])
    core.add_request(make_request("a", (1, 2, 3, 4, 5), max_tokens=20))
    for _ in range(10):
        core.step()
        now[0] += 0.1
    stats = core.stats()
    assert stats.tokens_per_s == pytest.approx(10.0)
    assert stats.kv_blocks_used == 4
    assert stats.kv_fragmentation == pytest.approx(1 / 16)
