"""The loop over a real model: a request's tokens do not depend on company, policy, memory or an engine's death."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import EngineRequest
from engine.runner.batch import ModelRunner
from engine.runner.factory import build_runner
from engine.sampling_params import SamplingParams
from engine.scheduling.policies import POLICIES
from tests.support.tiny_checkpoints import build_checkpoint

ROOMY = {"max_num_batched_tokens": 256, "num_blocks": 64}
TIGHT = {"max_num_batched_tokens": 24, "num_blocks": 12}
"""Eleven blocks of 16 tokens for ten requests of up to 90: preemption, chunks and eviction all the time."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    build_checkpoint("qwen3", folder)
    return folder


def make_requests() -> list[EngineRequest]:
    shared = tuple(range(3, 37))
    requests = []
    for i in range(10):
        sampling = SamplingParams(
            max_tokens=20 + 3 * i,
            temperature=0.0 if i % 3 == 0 else 0.9,
            top_p=0.9 if i % 2 else 1.0,
            seed=i,
            frequency_penalty=0.3 if i == 4 else 0.0,
        )
        prompt = shared[: 34 - 3 * i] + tuple(range(100 + i, 104 + 2 * i))
        requests.append(EngineRequest(f"r{i}", prompt, sampling, arrival_s=float(i)))
    return requests


def make_runner(checkpoint: Path, settings: dict[str, int]) -> tuple[EngineConfig, ModelRunner]:
    config = EngineConfig(
        model_path=str(checkpoint), device="cpu", max_model_len=128, max_num_seqs=6, block_size=16, **settings
    )
    runner, _ = build_runner(config, lambda phase, fraction, detail: None)
    return config, runner


def run(core: EngineCore, requests: list[EngineRequest], steps: int = 10_000) -> dict[str, tuple[int, ...]]:
    tokens = {request.request_id: request.resumed_token_ids for request in requests}
    for request in requests:
        core.add_request(request)
    while core.has_work() and steps:
        steps -= 1
        for output in core.step():
            assert output.finish_reason in (None, "length")
            tokens[output.request_id] += output.token_ids
    return tokens


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Every request on an engine of its own."""
    config, runner = make_runner(checkpoint, ROOMY)
    config = msgspec.structs.replace(config, enable_prefix_caching=False)
    tokens: dict[str, tuple[int, ...]] = {}
    for request in make_requests():
        tokens |= run(EngineCore(config, runner), [request])
    runner.close()
    return tokens


@pytest.mark.parametrize("policy", POLICIES)
def test_crowding_changes_no_token(checkpoint: Path, alone: dict[str, tuple[int, ...]], policy: str) -> None:
    config, runner = make_runner(checkpoint, TIGHT)
    core = EngineCore(msgspec.structs.replace(config, policy=policy), runner)
    assert run(core, make_requests()) == alone
    stats = core.stats()
    assert stats.preemptions > 0
    assert stats.blocks_reused > 0
    assert stats.kv_blocks_used == 0
    runner.close()


@pytest.mark.parametrize("steps", [1, 9, 40])
def test_death_changes_no_token(checkpoint: Path, alone: dict[str, tuple[int, ...]], steps: int) -> None:
    config, runner = make_runner(checkpoint, TIGHT)
    requests = make_requests()
    known = run(EngineCore(config, runner), requests, steps)
    runner.close()
    config, runner = make_runner(checkpoint, TIGHT)
    resumed = [msgspec.structs.replace(r, resumed_token_ids=known[r.request_id]) for r in requests]
    assert run(EngineCore(config, runner), resumed) == alone
    runner.close()
