"""Thousands of random histories, each replayable from its seed, and the proof that they would find a bug."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.simulation.mutations import MUTATIONS, planted
from tests.simulation.world import World, simulate

FAST_SEEDS = 2000
CHUNKS = 8
SLOW_SEEDS = int(os.environ.get("SIMULATION_SEEDS", "1000000"))
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
    size = SLOW_SEEDS // SLOW_CHUNKS
    first = FAST_SEEDS + chunk * size
    spans = [range(start, min(start + 500, first + size)) for start in range(first, first + size, 500)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        failed = [failure for failures in pool.map(failures_among, spans) for failure in failures]
    assert failed == []


def failures_among(seeds: range) -> list[str]:
    """What went wrong, and with which seed; in a process of its own."""
    logging.disable(logging.CRITICAL)
    failures = []
    for seed in seeds:
        try:
            simulate(seed)
        except Exception as error:  # noqa: BLE001 - every kind of failure is reported with its seed
            failures.append(f"seed {seed}: {type(error).__name__}: {error}")
    return failures
