"""Load on an OpenAI-compatible server's streams: `python -m benchmarks.load --model NAME --clients 1,8,64`.

Closed loop (`--clients`): each client sends its next request when its last one ended. Open loop (`--rates`): requests
arrive at random times at a given rate per second, whatever the server does. Several processes share the work, and the
report says how busy the busiest of them was, so that the client is not the limit unnoticed. Prompts are fresh for
each level and round and follow from `--seed`; give each run on one server another seed, or its prefix cache answers
the repeats. `--rounds` measures each level several times: throughput is then the median, and the latencies are over
all rounds. All numbers as JSON with `--json`, a picture with `--plot`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import multiprocessing
import os
import queue
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from benchmarks.scenarios import Scenario, add_options, from_options

EVENT = b"data: {"
REQUEST_TIMEOUT_S = 600.0
WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "on", "with", "as", "was", "at", "by", "from", "are")


Level = dict[str, Any]
"""Numbers of one level of load, as they go into the JSON file."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server, and what is the same for all scenarios."""

    url: str
    model: str
    vocab: int = 150_000
    """Prompts are drawn from the ids 100 .. vocab - 1."""
    api_key: str = "none"
    processes: int = 0
    """0: as many as the cores allow, at most 8."""
    seed: int = 0


def body(target: Target, scenario: Scenario, chooser: random.Random, shared: random.Random) -> bytes:
    """One fresh prompt behind the shared prefix: random token ids, or as many random words for chat."""
    length = chooser.randint(*scenario.input)
    fields: dict[str, object] = {
        "model": target.model,
        "max_tokens": scenario.output,
        **scenario.sampling,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    if scenario.endpoint == "chat":
        words = [shared.choice(WORDS) for _ in range(scenario.shared_prefix)]
        words += [chooser.choice(WORDS) for _ in range(length - 1)] + [str(chooser.randrange(10**9))]
        fields["messages"] = [{"role": "user", "content": " ".join(words)}]
    else:
        ids = shared.choices(range(100, target.vocab), k=scenario.shared_prefix)
        fields["prompt"] = ids + chooser.choices(range(100, target.vocab), k=length)
    return json.dumps(fields).encode()


def path(scenario: Scenario) -> str:
    return "/v1/chat/completions" if scenario.endpoint == "chat" else "/v1/completions"


@dataclass(slots=True)
class Samples:
    """Seconds of everything measured."""

    ttft: list[float] = field(default_factory=list)
    """From sending to the first text."""
    gap: list[float] = field(default_factory=list)
    """Between reads that carried text: what a reader sees."""
    tpot: list[float] = field(default_factory=list)
    """Of each request: time after its first token over its other tokens."""
    e2e: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    busy: float = 0.0
    """Largest share of its core that a client process took."""

    def merge(self, other: Samples) -> None:
        for name in ("ttft", "gap", "tpot", "e2e", "errors"):
            getattr(self, name).extend(getattr(other, name))
        self.tokens += other.tokens
        self.busy = max(self.busy, other.busy)


async def stream_once(target: Target, where: str, content: bytes, samples: Samples) -> None:
    """Send one request, read its stream to the end. Whatever goes wrong is counted."""
    sent = time.perf_counter()
    address = urlparse(target.url)
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port or 80, limit=1 << 20)
        head = (
            f"POST {where} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {target.api_key}\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        try:
            await asyncio.wait_for(_read_stream(reader, sent, samples), REQUEST_TIMEOUT_S)
        finally:
            writer.close()
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
        samples.errors.append(repr(error)[:200])


async def _read_stream(reader: asyncio.StreamReader, sent: float, samples: Samples) -> None:
    first = last = 0.0
    head, tail = b"", b""
    while chunk := await reader.read(1 << 18):
        now = time.perf_counter()
        if not first:
            head += chunk
            if b"\r\n\r\n" in head and b" 200 " not in head[:20]:
                raise ValueError(head[:300].decode(errors="replace"))
        known = tail[-len(EVENT) + 1 :]
        if EVENT in known + chunk:
            if first:
                samples.gap.append(now - last)
            else:
                first = now
                samples.ttft.append(now - sent)
            last = now
        tail = (tail + chunk)[-4096:]
    tokens = _completion_tokens(tail)
    samples.tokens += tokens
    samples.e2e.append(last - sent)
    if tokens > 1:
        samples.tpot.append((last - first) / (tokens - 1))


def _completion_tokens(tail: bytes) -> int:
    """From the usage at the stream's end. Raises ValueError for a stream without one, or that did not end."""
    at = tail.rfind(b'"completion_tokens":')
    if at < 0 or b"[DONE]" not in tail:
        raise ValueError(f"stream without usage or end: {tail[-200:].decode(errors='replace')}")
    digits = tail[at + len(b'"completion_tokens":') :].lstrip()
    return int(digits[: next(i for i, byte in enumerate(digits) if not 48 <= byte <= 57)])


async def closed_loop(target: Target, where: str, clients: int, bodies: list[bytes], samples: Samples) -> None:
    left = iter(bodies)

    async def client() -> None:
        for content in left:
            await stream_once(target, where, content, samples)

    await asyncio.gather(*(client() for _ in range(clients)))


async def open_loop(target: Target, where: str, due: list[float], bodies: list[bytes], samples: Samples) -> None:
    """`due`: seconds from the start at which each request is sent."""
    tasks = []
    begun = time.perf_counter()
    for at, content in zip(due, bodies, strict=True):
        await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
        tasks.append(asyncio.create_task(stream_once(target, where, content, samples)))
    await asyncio.gather(*tasks)


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of one round of a level."""

    target: Target
    scenario: Scenario
    clients: int
    rate: float
    requests: int
    name: str
    """Scenario, load and round: from it come the prompts, the same for every server."""
    number: int


def run_share(share: Share, start: Event, ready: Queue[int], results: Queue[Samples]) -> None:
    """Everything is prepared before `ready`, so that nothing but the load is inside the measured time."""
    name = f"{share.target.seed}/{share.name}"
    samples, chooser = Samples(), random.Random(f"{name}/{share.number}")
    bodies = [body(share.target, share.scenario, chooser, random.Random(name)) for _ in range(share.requests)]
    due, now = [], 0.0
    for _ in range(share.requests if share.rate else 0):
        now += chooser.expovariate(share.rate)
        due.append(now)

    async def main() -> None:
        ready.put(1)
        start.wait()
        begun, used = time.perf_counter(), time.process_time()
        if share.rate:
            await open_loop(share.target, path(share.scenario), due, bodies, samples)
        else:
            await closed_loop(share.target, path(share.scenario), share.clients, bodies, samples)
        samples.busy = (time.process_time() - used) / max(1e-9, time.perf_counter() - begun)

    asyncio.run(main())
    results.put(samples)


def count_processes(target: Target, clients: int, requests: int) -> int:
    return max(1, min(target.processes or min(8, len(os.sched_getaffinity(0))), clients or requests, requests))


def run_round(
    target: Target, scenario: Scenario, clients: int, rate: float, requests: int, name: str
) -> tuple[Samples, float]:
    """One round of one level, split over processes in proportion; all samples and the seconds it took."""
    processes = count_processes(target, clients, requests)
    shares = [
        Share(
            target,
            scenario,
            clients // processes + (number < clients % processes),
            rate / processes,
            requests // processes + (number < requests % processes),
            name,
            number,
        )
        for number in range(processes)
    ]
    context = multiprocessing.get_context("spawn")
    start, ready, results = context.Event(), context.Queue(), context.Queue()
    workers = [context.Process(target=run_share, args=(share, start, ready, results)) for share in shares]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.get(timeout=120)
    begun = time.perf_counter()
    start.set()
    total = Samples()
    for _ in workers:
        total.merge(_collect(results, workers))
    seconds = time.perf_counter() - begun
    for worker in workers:
        worker.join()
    return total, seconds


def _collect(results: Queue[Samples], workers: list[Any]) -> Samples:
    """Raises RuntimeError when a client process died, which would never answer."""
    while True:
        try:
            return results.get(timeout=5)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("a process of the load client died") from None


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank, milliseconds; NaN of nothing."""
    ordered = sorted(values)
    return 1e3 * ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))] if ordered else math.nan


def summary(rounds: list[tuple[Samples, float]], clients: int, rate: float, processes: int) -> Level:
    """Throughput: the median round. Latencies: percentiles over the requests of all rounds."""
    total = Samples()
    for samples, _ in rounds:
        total.merge(samples)
    speeds = [samples.tokens / seconds for samples, seconds in rounds]
    found: Level = {
        "clients": clients,
        "rate": rate,
        "rounds": len(rounds),
        "requests": len(total.e2e),
        "seconds": [seconds for _, seconds in rounds],
        "output_tokens_per_s": statistics.median(speeds),
        "output_tokens_per_s_rounds": speeds,
        "spread": (max(speeds) - min(speeds)) / max(1e-9, statistics.median(speeds)),
        "requests_per_s": statistics.median(len(samples.e2e) / seconds for samples, seconds in rounds),
        "errors": len(total.errors),
        "first_error": total.errors[:1],
        "client_processes": processes,
        "client_busy": total.busy,
    }
    for name in ("ttft", "gap", "tpot", "e2e"):
        for percent in (50, 90, 99):
            found[f"{name}_p{percent}_ms"] = percentile(getattr(total, name), percent)
    return found


def line(level: Level) -> str:
    who = f"rate {level['rate']:g}/s" if level["rate"] else f"clients {level['clients']:4d}"
    return (
        f"{who}  {level['output_tokens_per_s']:9.1f} tok/s (spread {level['spread']:.1%} of {level['rounds']})  "
        f"{level['requests_per_s']:7.2f} req/s  "
        f"TTFT {level['ttft_p50_ms']:.1f} / {level['ttft_p99_ms']:.1f} ms  "
        f"TPOT {level['tpot_p50_ms']:.2f} / {level['tpot_p99_ms']:.2f} ms  "
        f"E2E {level['e2e_p50_ms']:.0f} / {level['e2e_p99_ms']:.0f} ms  "
        f"clients' busiest process of {level['client_processes']}: {level['client_busy']:.0%}  "
        f"errors {level['errors']} {level['first_error'] or ''}"
    )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def warm_up(target: Target, scenario: Scenario) -> None:
    """One request of each client of the highest level."""
    most = max(scenario.clients, default=0) or 16
    run_round(target, scenario, most, 0.0, most, f"warm-up/{scenario.name}")


def measure(target: Target, scenario: Scenario, warm: bool = True) -> list[Level]:
    """All levels of one scenario, printed as they end."""
    if warm:
        warm_up(target, scenario)
    levels = []
    for clients, rate in scenario.loads:
        requests = scenario.requests(clients, rate)
        names = [f"{scenario.name}/{clients}/{rate}/{number}" for number in range(scenario.rounds)]
        rounds = [run_round(target, scenario, clients, rate, requests, name) for name in names]
        levels.append(summary(rounds, clients, rate, count_processes(target, clients, requests)))
        say(f"{scenario.name}: {line(levels[-1])}")
    return levels


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", required=True)
    add_options(parser, clients="1,8,64")
    parser.add_argument("--vocab", type=int, default=150_000)
    parser.add_argument("--processes", type=int, default=0, help="0: as many as there are cores, at most 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--no-warm-up", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG; needs matplotlib")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse_args()
    target = Target(args.url, args.model, args.vocab, args.api_key, args.processes, args.seed)
    scenarios = from_options(args)
    found = {scenario.name: measure(target, scenario, not args.no_warm_up) for scenario in scenarios}
    if args.json:
        described = [dataclasses.asdict(scenario) for scenario in scenarios]
        args.json.write_text(json.dumps({"scenarios": described, "results": found}, indent=1))
    if args.plot:
        from benchmarks.plots import plot_loads

        plot_loads({args.model: found}, args.plot)


if __name__ == "__main__":
    main()
