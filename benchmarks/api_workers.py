"""Several HTTP processes before one engine that emits as fast as it can: what a token costs each of them.

    python -m benchmarks.api_workers [--workers 1,2,4] [--clients 64] [--rounds 3]

The whole server with the demo model's tokenizer, its engine process with a runner that computes nothing, and streams
over HTTP in a closed loop. Tokens a second of wall time are what this machine's cores allow with the load client on
them too; tokens a second of a process's own CPU time say how far it would go with a core to itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from adapters.engine_backend import EngineBackend
from adapters.engine_host import EngineHost
from benchmarks.http_layer import cpu_seconds
from benchmarks.load import Target, run_round, say
from benchmarks.scenarios import Scenario
from oai_server.lifecycle import Worker, serve
from oai_server.settings import Settings
from oai_server.start import backend_options, queue_counts, resolve

RUNNER = "benchmarks.instant_runner:build"
OUTPUT_TOKENS = 256
READY_S = 60.0


# ---- the server


def make_backend(settings: Settings, worker: Worker) -> EngineBackend:
    options, counts = backend_options(settings), queue_counts(worker)
    return EngineBackend(settings.engine_config(), options, run_dir=worker.run_dir, counts=counts, runner=RUNNER)


def make_host(settings: Settings) -> EngineHost:
    return EngineHost(settings.engine_config(), runner=RUNNER)


def run_server(workers: int) -> int:
    settings = resolve(Settings(port=0, api_workers=workers, access_log=False))
    return serve(settings, make_backend, make_host=make_host, on_listening=say)


@contextmanager
def serving(workers: int) -> Iterator[tuple[str, list[int], int]]:
    """(URL, process ids of the HTTP processes, of the engine), once all of them answer."""
    command = [sys.executable, "-m", "benchmarks.api_workers", "--serve", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if process.stdout is None:
            raise RuntimeError("no output of the server")
        url = process.stdout.readline().strip()
        deadline, ready = time.monotonic() + READY_S, 0
        while ready < 12 * workers:  # each look is a new connection and may meet any of them
            ready = ready + 1 if _is_ready(url) else 0
            if time.monotonic() > deadline:
                raise RuntimeError("the server does not become ready")
        below = _descendants(process.pid)
        engine = next(pid for pid, line in below.items() if "engine.process.server" in line)
        fronts = [pid for pid, line in below.items() if "spawn_main" in line] if workers > 1 else [process.pid]
        yield url, fronts, engine
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _descendants(pid: int) -> dict[int, str]:
    """Processes below one, with their command lines."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            found |= _descendants(child)
    return found


# ---- the measurement


def measure(workers: int, clients: int, rounds: int) -> str:
    """One row of the table: medians over the rounds."""
    scenario = Scenario(input=(16, 32), output=OUTPUT_TOKENS)
    wall, front, engine, balance = list[float](), list[float](), list[float](), list[float]()
    with serving(workers) as (url, front_pids, engine_pid):
        target = Target(url, "demo", vocab=6000, processes=1)
        run_round(target, scenario, clients, 0.0, clients, "warm-up")
        for number in range(rounds):
            before = [cpu_seconds(pid) for pid in [*front_pids, engine_pid]]
            samples, seconds = run_round(target, scenario, clients, 0.0, 2 * clients, f"{workers}/{number}")
            used = [cpu_seconds(pid) - was for pid, was in zip([*front_pids, engine_pid], before, strict=True)]
            if samples.errors:
                raise RuntimeError(samples.errors[0])
            wall.append(samples.tokens / seconds)
            front.append(samples.tokens / sum(used[:-1]))
            engine.append(samples.tokens / used[-1])
            balance.append(max(used[:-1]) * workers / sum(used[:-1]))
    cells = [wall, front, engine]
    numbers = " | ".join(f"{statistics.median(cell):,.0f}" for cell in cells)
    return f"| {workers} | {numbers} | {statistics.median(balance):.2f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=int, help="only the server, with that many HTTP processes")
    options = parser.parse_args()
    if options.serve:
        return run_server(options.serve)
    say("| HTTP processes | tokens/s | of their CPU | of the engine's CPU | busiest to mean |")
    say("| ---: | ---: | ---: | ---: | ---: |")
    for workers in [int(workers) for workers in options.workers.split(",")]:
        say(measure(workers, options.clients, options.rounds))
    say(f"\n{options.clients} clients, {OUTPUT_TOKENS} tokens each, {options.rounds} rounds, {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
