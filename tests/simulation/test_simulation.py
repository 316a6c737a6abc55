"""Thousands of random histories, each replayable from its seed, and the proof that they would find a bug.

The slow million runs on all cores. SIMULATION_SEEDS="50000:60000" runs other seeds, SIMULATION_PROGRESS=FOLDER keeps
notes of what came through, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.mutations import MUTATIONS, planted
from tests.simulation.sweep import chunks_of, failures_of, progress_from_environment, seeds_from_environment, sweep
from tests.simulation.world import World, simulate

FAST_SEEDS = 2000
CHUNKS = 8
SLOW_SEEDS = range(FAST_SEEDS, FAST_SEEDS + 1_000_000)
SLOW_CHUNKS = 20
SEEDS_TO_FIND_A_BUG = 1000


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Injected failures are logged with their tracebacks; thousands of them help nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_histories(chunk: int) -> None:
    size = FAST_SEEDS // CHUNKS
    seen: Counter[str] = Counter()
    for seed in range(chunk * size, (chunk + 1) * size):
        count(simulate(seed), seen)
    for name in ("preemptions", "hits", "engines", "stop", "length", "abort", "error"):
        assert seen[name] > 10, f"these histories hold too few of: {name}"


def count(world: World, seen: Counter[str]) -> None:
    stats = world.core.stats()
    seen.update(str(client.end) for client in world.clients.values())
    seen["preemptions"] += stats.preemptions
    seen["hits"] += stats.prefix_hits_tokens
    seen["engines"] += world.engines


def test_one_seed_is_one_history() -> None:
    one, two = simulate(7), simulate(7)
    assert {name: (c.tokens, c.end) for name, c in one.clients.items()} == {
        name: (c.tokens, c.end) for name, c in two.clients.items()
    }


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(name):
        for seed in range(SEEDS_TO_FIND_A_BUG):
            try:
                simulate(seed)
            except Exception:  # noqa: BLE001 - an invariant, or the engine itself, objects
                return
    pytest.fail(f"{SEEDS_TO_FIND_A_BUG} histories did not find it")


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(SLOW_CHUNKS))
def test_a_million_histories(chunk: int) -> None:
    seeds = chunks_of(seeds_from_environment(SLOW_SEEDS), SLOW_CHUNKS)[chunk]
    assert sweep(histories, seeds, progress_from_environment("histories")) == []


def histories(seeds: range) -> list[str]:
    return failures_of(seeds, simulate)
