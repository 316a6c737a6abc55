"""The queue, the limits of keys and /load are those of all processes together, also when one of them was killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import httpx
import pytest

from adapters.admission import Admission
from adapters.backend_options import BackendLimits
from engine.errors import EngineOverloadedError
from oai_server.errors import ApiError
from oai_server.shared_counts import (
    SharedCounts,
    SharedKeyLimiter,
    SharedQueue,
    discard_counts,
    forget_worker,
)
from tests.support.fault_tree import descendants
from tests.support.live_server import server_process
from tests.support.patience import PATIENCE_S, wait_for

LIMIT = 5
KEYS = ("alpha", "beta")
BODY = {"prompt": "a b", "max_tokens": 4000, "stream": True}
"""Takes 40 s at least; whoever asks leaves before its end."""


@pytest.fixture
def url_and_pid() -> Iterator[tuple[str, int]]:
    """Two processes."""
    settings = {"api_workers": 2, "api_key": list(KEYS), "max_concurrent_requests_per_key": LIMIT}
    with server_process({"delay_s": 0.01}, shutdown_timeout=0.2, **settings) as (process, url):  # type: ignore[arg-type]
        yield url, process.pid


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def load(url: str) -> int:
    reply = httpx.get(f"{url}/load", headers=bearer(KEYS[0]), timeout=PATIENCE_S, verify=False)
    number: int = reply.json()["server_load"]
    return number


def wait_for_load(url: str, wanted: int) -> None:
    """Of several processes: each call is a new connection."""
    wait_for(lambda: {load(url) for _ in range(6)} == {wanted}, f"a load of {wanted}")


def workers_of(pid: int) -> set[int]:
    return {child for child, command in descendants(pid).items() if "spawn_main" in command}


class Streams:
    """Streams in threads, each over a connection of its own; what became of each stands in `statuses`."""

    def __init__(self, url: str, key: str, count: int) -> None:
        self.statuses: list[int] = []
        self._leave = threading.Event()
        self._threads = [threading.Thread(target=self._stream, args=(url, key), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _stream(self, url: str, key: str) -> None:
        try:
            with (
                httpx.Client(timeout=PATIENCE_S, verify=False) as client,
                client.stream("POST", f"{url}/v1/completions", json=BODY, headers=bearer(key)) as reply,
            ):
                self.statuses.append(reply.status_code)
                for _ in reply.iter_bytes():
                    if self._leave.is_set():
                        return
        except httpx.TransportError:
            return

    def wait(self) -> None:
        wait_for(lambda: len(self.statuses) == len(self._threads), "all are answered")

    @property
    def num_open(self) -> int:
        """How many have not ended."""
        return sum(thread.is_alive() for thread in self._threads)

    def leave(self) -> None:
        self._leave.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


def test_the_limit_of_a_key_and_the_load_span_all_processes(url_and_pid: tuple[str, int]) -> None:
    url, _ = url_and_pid
    streams = Streams(url, "alpha", 24)
    streams.wait()
    assert sorted(streams.statuses) == [200] * LIMIT + [429] * (24 - LIMIT)
    others = Streams(url, "beta", 2)
    others.wait()
    assert others.statuses == [200, 200]
    wait_for_load(url, LIMIT + 2)
    streams.leave()
    wait_for_load(url, 2)
    again = Streams(url, "alpha", LIMIT)
    again.wait()
    assert again.statuses == [200] * LIMIT
    again.leave()
    others.leave()
    wait_for_load(url, 0)


def test_what_a_killed_process_was_working_on_counts_no_longer(url_and_pid: tuple[str, int]) -> None:
    url, pid = url_and_pid
    for _ in range(10):  # until both have something to do
        streams = Streams(url, "alpha", LIMIT)
        streams.wait()
        workers = workers_of(pid)
        assert len(workers) == 2
        os.kill(min(workers), signal.SIGKILL)
        wait_for(lambda: len(workers_of(pid) - {min(workers)}) == 2, "another takes its place")  # noqa: B023
        wait_for(lambda: load(url) == streams.num_open, "what is left is counted")  # noqa: B023
        left = streams.num_open
        streams.leave()
        wait_for_load(url, 0)
        if left < LIMIT:
            break
    assert left < LIMIT
    again = Streams(url, "alpha", LIMIT)
    again.wait()
    assert again.statuses == [200] * LIMIT
    again.leave()


def _compete(folder: Path, index: int, begin: Barrier, rounds: int) -> None:
    """Acquire and release; leave in a file when it held what it had got."""
    counts = SharedCounts(folder, index, 3, ("key",))
    limiter = SharedKeyLimiter(2, counts)
    begin.wait()
    held: list[tuple[int, int]] = []
    for _ in range(rounds):
        try:
            limiter.acquire("key")
        except ApiError:
            continue
        held.append((time.monotonic_ns(), time.monotonic_ns()))
        limiter.release("key")
    (folder / f"held-{index}").write_text(json.dumps(held))


def test_racing_processes_never_pass_the_limit(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    begin = spawn.Barrier(3)
    racers = [spawn.Process(target=_compete, args=(tmp_path, index, begin, 3000)) for index in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(PATIENCE_S)
        assert racer.exitcode == 0
    held = [span for index in range(3) for span in json.loads((tmp_path / f"held-{index}").read_text())]
    changes = sorted([(begin, 1) for begin, _ in held] + [(end, -1) for _, end in held])
    assert max(itertools.accumulate(change for _, change in changes)) <= 2
    assert len(held) > 1000
    assert SharedCounts(tmp_path, 0, 3, ("key",)).total("key") == 0


def _crowd_in(folder: Path, index: int, begin: Barrier, bound: int) -> None:
    """Sequences come in until one is refused; leave in a file how many got in."""
    admission = Admission(SharedQueue(folder, index, 3), BackendLimits(max_waiting_requests=bound))
    begin.wait()
    let_in = 0
    with contextlib.suppress(EngineOverloadedError):
        while True:
            admission.arrive(1, None)
            let_in += 1
    (folder / f"in-{index}").write_text(str(let_in))


def test_processes_share_one_queue_to_the_last_place(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    begin = spawn.Barrier(3)
    racers = [spawn.Process(target=_crowd_in, args=(tmp_path, index, begin, 5000)) for index in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(PATIENCE_S)
        assert racer.exitcode == 0
    assert sum(int((tmp_path / f"in-{index}").read_text()) for index in range(3)) == 5000


def test_whoever_fills_the_queue_and_whoever_dies(tmp_path: Path) -> None:
    first, second = (SharedQueue(tmp_path, index, 2) for index in range(2))
    limits = BackendLimits(max_waiting_requests=6, max_waiting_tokens=100)
    admissions = [Admission(queue, limits) for queue in (first, second)]
    admissions[0].arrive(6, None)  # all of it in one process
    for admission in admissions:
        with pytest.raises(EngineOverloadedError) as refused:
            admission.arrive(1, None)
        assert refused.value.retry_after_s == 7
    admissions[0].leave(2)
    admissions[1].arrive(2, None)
    forget_worker(tmp_path, 0, 2)
    assert (first.sequences, second.sequences) == (2, 2)
    admissions[1].arrive(4, None)
    admissions[1].leave(4)
    second.add(0, 101)
    with pytest.raises(EngineOverloadedError):
        admissions[0].arrive(1, None)
    assert (first.sequences, first.waiting_tokens) == (2, 101)


def test_the_file_stays_until_the_last_process_ends(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    SharedQueue(folder, 0, 2).add(3)
    (folder / "worker-1").touch()
    discard_counts(folder)
    assert SharedQueue(folder, 1, 2).sequences == 3
    (folder / "worker-1").unlink()
    discard_counts(folder)
    assert not folder.exists()


def test_rows_are_the_processes_own_and_are_forgotten_with_them(tmp_path: Path) -> None:
    first, second = (SharedCounts(tmp_path, index, 2, ("a", "b")) for index in range(2))
    limiters = [SharedKeyLimiter(2, counts) for counts in (first, second)]
    for limiter in limiters:
        limiter.acquire("a")
    second.set_load(7)
    assert (first.total("a"), first.total("b"), first.total()) == (2, 0, 7)
    with pytest.raises(ApiError) as refused:
        limiters[0].acquire("a")
    assert refused.value.status == 429
    forget_worker(tmp_path, 1, 2)
    assert (first.total("a"), first.total()) == (1, 0)
    limiters[0].acquire("a")
    reborn = SharedCounts(tmp_path, 0, 2, ("a", "b"))
    assert reborn.total("a") == 0
