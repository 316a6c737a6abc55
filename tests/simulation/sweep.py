"""Many seeds over all cores, with a note of the spans that came through, so that a stopped sweep goes on."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

SPAN = 500
"""Seeds a process takes at a time."""


def sweep(histories: Callable[[range], list[str]], seeds: range, progress: Path | None = None) -> list[str]:
    """Failures of `histories` (a function of a module, for one span) over the seeds that `progress` does not name.

    A line of `progress` is "first end": that span came through. Failed spans are not noted, so they run again.
    """
    done = set(progress.read_text().splitlines()) if progress is not None and progress.exists() else set[str]()
    spans = [span for span in spans_of(seeds) if _line(span) not in done]
    failures = list[str]()
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_prepare) as pool:
        for span, failed in zip(spans, pool.map(histories, spans), strict=True):
            failures += failed
            if progress is not None and not failed:
                with progress.open("a") as file:
                    file.write(_line(span) + "\n")
    return failures


def spans_of(seeds: range) -> Iterator[range]:
    for start in range(seeds.start, seeds.stop, SPAN):
        yield range(start, min(start + SPAN, seeds.stop))


def chunks_of(seeds: range, num_chunks: int) -> list[range]:
    """Equal parts, so that each is a test of its own within the time limit of one."""
    bounds = [seeds.start + len(seeds) * index // num_chunks for index in range(num_chunks + 1)]
    return [range(first, end) for first, end in pairwise(bounds)]


def seeds_from_environment(default: range, variable: str = "SIMULATION_SEEDS") -> range:
    """The variable's "first:end" (or a count, from the default's first on), e.g. to go on or to run a few."""
    first, _, end = os.environ.get(variable, "").rpartition(":")
    start = int(first) if first else default.start
    if not end:
        return default
    return range(start, int(end) if first else start + int(end))


def progress_from_environment(name: str) -> Path | None:
    """SIMULATION_PROGRESS names a folder; each sweep keeps a file there."""
    folder = os.environ.get("SIMULATION_PROGRESS")
    if not folder:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) / f"{name}.txt"


def failures_of(seeds: Iterable[int], history: Callable[[int], object]) -> list[str]:
    """What went wrong, and with which seed."""
    failures = []
    for seed in seeds:
        try:
            history(seed)
        except Exception as error:  # noqa: BLE001 - every kind of failure is reported with its seed
            failures.append(f"seed {seed}: {type(error).__name__}: {error}")
    return failures


def _line(span: range) -> str:
    return f"{span.start} {span.stop}"


def _prepare() -> None:
    """A worker: injected failures are not logged, and what is imported is never looked through for garbage."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
