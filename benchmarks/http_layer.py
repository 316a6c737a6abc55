"""The HTTP layer alone: SSE chunks and short requests a second and core, the field's stack against ours.

    python -m benchmarks.http_layer [--levels 1,16,64,256] [--tokens 256] [--chunks 65536] [--rounds 5]

A fake engine emits as fast as its streams write. The server has core 0, the client core 1. Rates are per second of
the server's own CPU time, so that other work on the machine disturbs them little; a server that keeps its core busy
does as many per second of wall time. The two servers take turns at every level, and who begins alternates; ratios
are of the two neighbours in time, medians and extremes over the rounds. Starting and ending the streams counts.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

FIELD, OURS = "field", "ours"
SHORT = "short requests, 16 connections"
BARS = {"chunks, 64 streams": 1.8, "chunks, 256 streams": 2.5, SHORT: 1.5}


@contextlib.contextmanager
def running(kind: str) -> Iterator[tuple[int, int]]:
    """(pid, port) of a server."""
    command = [sys.executable, "-m", "benchmarks.http_layer_servers", kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(20):
            roundtrips(port, connections=1, requests=5)
        yield process.pid, port
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, from its CPU clock (clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


def request_bytes(tokens: int, *, stream: bool) -> bytes:
    body = {
        "model": "bench",
        "messages": [{"role": "user", "content": "Tell me something about the sea."}],
        "max_tokens": tokens,
        "temperature": 0.7,
        "stream": stream,
    }
    payload = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


def consume_streams(port: int, streams: int, tokens: int) -> int:
    """Open `streams` at once and read them to their ends; the number of events."""
    poll = select.epoll()
    open_sockets = {}
    for _ in range(streams):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request_bytes(tokens, stream=True))
        connection.setblocking(False)
        open_sockets[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN)
    events = 0
    while open_sockets:
        for number, _ in poll.poll():
            data = open_sockets[number].recv(1 << 18)
            events += data.count(b"data: {")
            if not data or data.endswith(b"0\r\n\r\n"):
                poll.unregister(number)
                open_sockets.pop(number).close()
    poll.close()
    return events


def roundtrips(port: int, connections: int, requests: int) -> int:
    """`requests` short requests, one at a time on each of `connections` kept-alive connections."""
    request = request_bytes(4, stream=False)
    poll = select.epoll()
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    by_number = {connection.fileno(): connection for connection in idle}
    for connection in idle:
        poll.register(connection, select.EPOLLIN)
        connection.sendall(request)
    sent, answered = connections, 0
    replies = dict.fromkeys(by_number, b"")
    while answered < sent:
        for number, _ in poll.poll():
            replies[number] += by_number[number].recv(1 << 16)
            if not complete(replies[number]):
                continue
            replies[number] = b""
            answered += 1
            if sent < requests:
                by_number[number].sendall(request)
                sent += 1
    for connection in idle:
        connection.close()
    poll.close()
    return answered


def complete(reply: bytes) -> bool:
    head, end, body = reply.partition(b"\r\n\r\n")
    if not end:
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(reply.decode())
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def measure(pid: int, port: int, streams: int, tokens: int, chunks: int) -> float:
    """Chunks a CPU second with `streams` at a time of `tokens` each, about `chunks` in all."""
    before = cpu_seconds(pid)
    seen = sum(consume_streams(port, streams, tokens) for _ in range(max(1, chunks // (streams * tokens))))
    return seen / (cpu_seconds(pid) - before)


def measure_short(pid: int, port: int, connections: int, requests: int) -> float:
    """Whole requests a CPU second."""
    before = cpu_seconds(pid)
    done = roundtrips(port, connections, requests)
    return done / (cpu_seconds(pid) - before)


def measurements(options: argparse.Namespace) -> dict[str, Callable[[int, int], float]]:
    """What is measured of the server (pid, port), by the name of its row."""
    rows: dict[str, Callable[[int, int], float]] = {}
    for level in [int(level) for level in options.levels.split(",")]:
        chunks = options.chunks if level >= 16 else options.chunks // 8
        rows[f"chunks, {level} streams"] = functools.partial(
            measure, streams=level, tokens=options.tokens, chunks=chunks
        )
    rows[SHORT] = functools.partial(measure_short, connections=16, requests=options.requests)
    return rows


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--levels", default="1,16,64,256", help="streams at a time")
    arguments.add_argument("--tokens", type=int, default=256, help="tokens a stream")
    arguments.add_argument(
        "--chunks", type=int, default=65_536, help="chunks a measurement; an eighth below 16 streams"
    )
    arguments.add_argument("--requests", type=int, default=3_000, help="short requests a measurement")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    rows: dict[str, list[tuple[float, float]]] = {}
    begin_s = time.perf_counter()
    with running(FIELD) as field, running(OURS) as ours:
        for number in range(options.rounds):
            for name, of in measurements(options).items():
                pair = (of(*field), of(*ours)) if number % 2 == 0 else (of(*ours), of(*field))[::-1]
                rows.setdefault(name, []).append(pair)
    sys.stdout.write(table(rows))
    seconds = time.perf_counter() - begin_s
    sys.stdout.write(f"\n{options.tokens} tokens a stream, {options.rounds} rounds, {seconds:.0f} s\n")
    return 0


def table(rows: dict[str, list[tuple[float, float]]]) -> str:
    lines = [
        "| a second of one core | FastAPI, StreamingResponse, pydantic | this server | ratio (min-max) | bar |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, pairs in rows.items():
        field, ours = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        ratios = [ours / field for field, ours in pairs]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        bar = f"{BARS[name]:.1f}" if name in BARS else ""
        lines.append(f"| {name} | {field:,.0f} | {ours:,.0f} | {spread} | {bar} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
