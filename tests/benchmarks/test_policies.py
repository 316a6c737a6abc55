"""The policies' benchmark: the engine knows of its workload what it knows of a server's."""

from __future__ import annotations

import statistics

import pytest

from benchmarks import policies
from engine.config import EngineConfig
from engine.scheduling.policies import POLICIES
from engine.scheduling.policy import SchedulingPolicy
from engine.scheduling.shortest_first import FairShortestFirst
from tests.support.scripted_runner import VOCAB, ScriptedRunner

SLOTS = 8


def config() -> EngineConfig:
    return EngineConfig(model_path="", max_num_seqs=SLOTS, max_num_batched_tokens=512)


def runner() -> ScriptedRunner:
    return ScriptedRunner(num_blocks=600, block_size=16, max_model_len=1024, max_num_seqs=SLOTS)


def test_the_workload_is_the_same_at_every_rate_and_half_of_it_tells_its_length() -> None:
    at_once, spread = policies.draw_workload(400, 0.0, 3), policies.draw_workload(400, 5.0, 3)
    assert [(job.prompt, job.length) for job in at_once] == [(job.prompt, job.length) for job in spread]
    arrivals = [job.arrival_s for job in spread]
    assert arrivals == sorted(arrivals) and arrivals[-1] == pytest.approx(80, rel=0.2)
    assert 160 < sum(job.states_length for job in spread) < 240
    for job in spread:
        sampling = job.request("x", 0.0, VOCAB).sampling
        assert sampling.max_tokens == (job.length if job.states_length else policies.MAX_OUTPUT)


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_gets_what_it_wants(name: str) -> None:
    jobs = policies.draw_workload(24, 0.0, 1)
    policies.play(config(), runner(), name, jobs, VOCAB)
    assert all(job.received == job.length and 0 < job.first_s <= job.end_s for job in jobs)


def test_shortest_first_learns_the_length_of_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = FairShortestFirst()

    def make_policy(_name: str) -> SchedulingPolicy:
        return policy

    monkeypatch.setattr(policies, "make_policy", make_policy)
    jobs = policies.draw_workload(60, 0.0, 2)
    policies.play(config(), runner(), "sjf", jobs, VOCAB)
    assert policy._mean_output == pytest.approx(statistics.mean(job.length for job in jobs))
