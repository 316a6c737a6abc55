"""Load on an OpenAI-compatible server's streams: `python -m benchmarks.load --model NAME --clients 1,8,64`.

Closed loop (`--clients`): each client sends its next request when its last one ended. Open loop (`--rates`): requests
arrive at random times at a given rate per second, whatever the server does. Several processes share the work, so that
the client is not the limit. Prompts come from `--seed`; give each run on one server another seed, or its prefix cache
answers the repeats. One line a level, all numbers as JSON with `--json`, a picture with `--plot`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import random
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import urlparse

EVENT = b"data: {"
REQUEST_TIMEOUT_S = 600.0
WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "on", "with", "as", "was", "at", "by", "from", "are")


@dataclass(frozen=True, slots=True)
class Workload:
    """What each request looks like."""

    url: str
    model: str
    endpoint: str
    shortest: int
    longest: int
    output: int
    temperature: float
    vocab: int
    shared_prefix: int
    api_key: str

    def body(self, chooser: random.Random) -> bytes:
        """One fresh prompt: random token ids, or as many random words for chat."""
        length = chooser.randint(self.shortest, self.longest)
        fields: dict[str, object] = {
            "model": self.model,
            "max_tokens": self.output,
            "temperature": self.temperature,
            "stream": True,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        shared = random.Random(7)
        if self.endpoint == "chat":
            words = [shared.choice(WORDS) for _ in range(self.shared_prefix)]
            words += [f"{chooser.choice(WORDS)}" for _ in range(length - 1)] + [str(chooser.randrange(10**9))]
            fields["messages"] = [{"role": "user", "content": " ".join(words)}]
        else:
            ids = [shared.randrange(100, self.vocab) for _ in range(self.shared_prefix)]
            fields["prompt"] = ids + [chooser.randrange(100, self.vocab) for _ in range(length)]
        return json.dumps(fields).encode()

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.endpoint == "chat" else "/v1/completions"


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

    def merge(self, other: Samples) -> None:
        for name in ("ttft", "gap", "tpot", "e2e", "errors"):
            getattr(self, name).extend(getattr(other, name))
        self.tokens += other.tokens


async def stream_once(work: Workload, body: bytes, samples: Samples) -> None:
    """Send one request, read its stream to the end. Whatever goes wrong is counted."""
    sent = time.perf_counter()
    address = urlparse(work.url)
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port or 80, limit=1 << 20)
        head = (
            f"POST {work.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {work.api_key}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
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


async def closed_loop(work: Workload, clients: int, requests: int, chooser: random.Random, samples: Samples) -> None:
    bodies = iter([work.body(chooser) for _ in range(requests)])

    async def client() -> None:
        for body in bodies:
            await stream_once(work, body, samples)

    await asyncio.gather(*(client() for _ in range(clients)))


async def open_loop(work: Workload, rate: float, requests: int, chooser: random.Random, samples: Samples) -> None:
    bodies = [work.body(chooser) for _ in range(requests)]
    tasks = []
    begun, due = time.perf_counter(), 0.0
    for body in bodies:
        due += chooser.expovariate(rate)
        await asyncio.sleep(max(0.0, begun + due - time.perf_counter()))
        tasks.append(asyncio.create_task(stream_once(work, body, samples)))
    await asyncio.gather(*tasks)


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of a level."""

    clients: int
    rate: float
    requests: int
    seed: int


def run_share(work: Workload, share: Share, start: Event, ready: Queue[int], results: Queue[Samples]) -> None:
    samples, chooser = Samples(), random.Random(share.seed)

    async def main() -> None:
        ready.put(1)
        start.wait()
        if share.rate:
            await open_loop(work, share.rate, share.requests, chooser, samples)
        else:
            await closed_loop(work, share.clients, share.requests, chooser, samples)

    asyncio.run(main())
    results.put(samples)


def run_level(
    work: Workload, clients: int, rate: float, requests: int, processes: int, seed: int
) -> dict[str, object]:
    """One level of load, split over processes in proportion. Percentiles in milliseconds."""
    processes = max(1, min(processes, clients or requests))
    shares = [
        Share(
            clients // processes + (number < clients % processes),
            rate / processes,
            requests // processes + (number < requests % processes),
            seed * 1_000_003 + clients * 101 + number,
        )
        for number in range(processes)
    ]
    context = multiprocessing.get_context("spawn")
    start, ready, results = context.Event(), context.Queue(), context.Queue()
    workers = [context.Process(target=run_share, args=(work, share, start, ready, results)) for share in shares]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.get(timeout=60)
    begun = time.perf_counter()
    start.set()
    total = Samples()
    for _ in workers:
        total.merge(results.get())
    seconds = time.perf_counter() - begun
    for worker in workers:
        worker.join()
    return summary(total, clients, rate, seconds)


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank, milliseconds; NaN of nothing."""
    ordered = sorted(values)
    return 1e3 * ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))] if ordered else math.nan


def summary(samples: Samples, clients: int, rate: float, seconds: float) -> dict[str, object]:
    found: dict[str, object] = {
        "clients": clients,
        "rate": rate,
        "requests": len(samples.e2e),
        "seconds": seconds,
        "output_tokens_per_s": samples.tokens / seconds,
        "requests_per_s": len(samples.e2e) / seconds,
        "errors": len(samples.errors),
        "first_error": samples.errors[:1],
    }
    for name in ("ttft", "gap", "tpot", "e2e"):
        for percent in (50, 90, 99):
            found[f"{name}_p{percent}_ms"] = percentile(getattr(samples, name), percent)
    return found


def line(level: dict[str, object]) -> str:
    who = f"rate {level['rate']:g}/s" if level["rate"] else f"clients {level['clients']:4d}"
    return (
        f"{who}  {level['output_tokens_per_s']:9.1f} tok/s  {level['requests_per_s']:7.2f} req/s  "
        f"TTFT {level['ttft_p50_ms']:.1f} / {level['ttft_p99_ms']:.1f} ms  "
        f"TPOT {level['tpot_p50_ms']:.2f} / {level['tpot_p99_ms']:.2f} ms  "
        f"E2E {level['e2e_p50_ms']:.0f} / {level['e2e_p99_ms']:.0f} ms  "
        f"errors {level['errors']} {level['first_error'] or ''}"
    )


def plot(levels: list[dict[str, object]], path: Path, title: str) -> None:
    """Throughput and TTFT over load. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    load = [level["rate"] or level["clients"] for level in levels]
    left.plot(load, [level["output_tokens_per_s"] for level in levels], marker="o")
    left.set(xlabel="clients or requests/s", ylabel="output tokens/s", title=title)
    for percent in (50, 99):
        right.plot(load, [level[f"ttft_p{percent}_ms"] for level in levels], marker="o", label=f"TTFT p{percent}")
    right.set(xlabel="clients or requests/s", ylabel="ms")
    right.legend()
    figure.tight_layout()
    figure.savefig(path)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", required=True)
    parser.add_argument("--endpoint", choices=("completions", "chat"), default="completions")
    parser.add_argument("--clients", default="1,8,64", help="closed loop: numbers of clients")
    parser.add_argument("--rates", default="", help="open loop: requests a second; takes the place of --clients")
    parser.add_argument("--input", default="128:512", help="prompt tokens, shortest:longest")
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--vocab", type=int, default=150000)
    parser.add_argument("--shared-prefix", type=int, default=0, help="tokens that all prompts begin with")
    parser.add_argument("--rounds", type=float, default=2.0, help="requests of each client")
    parser.add_argument("--min-requests", type=int, default=4)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--no-warm-up", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    """All levels of one command line, printed as they end."""
    shortest, longest = (int(part) for part in args.input.split(":"))
    work = Workload(
        args.url, args.model, args.endpoint, shortest, longest, args.output, args.temperature, args.vocab,
        args.shared_prefix, args.api_key,
    )  # fmt: skip
    rates = [float(rate) for rate in args.rates.split(",")] if args.rates else []
    loads = [(0, rate) for rate in rates] or [(int(clients), 0.0) for clients in args.clients.split(",")]
    if not args.no_warm_up:
        most = max(clients for clients, _ in loads) or 16
        run_level(work, most, 0.0, most, args.processes, args.seed + 10**6)
    levels = []
    for clients, rate in loads:
        requests = max(args.min_requests, round(args.rounds * (clients or rate * 30)))
        levels.append(run_level(work, clients, rate, requests, args.processes, args.seed))
        sys.stdout.write(line(levels[-1]) + "\n")
        sys.stdout.flush()
    return levels


def main() -> None:
    args = parse_args()
    levels = measure(args)
    if args.json:
        workload = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        args.json.write_text(json.dumps({"workload": workload, "levels": levels}, indent=1))
    if args.plot:
        plot(levels, args.plot, args.model)


if __name__ == "__main__":
    main()
