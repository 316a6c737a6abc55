"""The HTTP layer alone: SSE chunks and short requests a second and core, the field's stack against ours.

    python -m benchmarks.http_layer [--levels 1,16,64,256] [--events 100000] [--repeats 3]

A fake engine emits as fast as its streams write. The server has core 0, the client core 1. Rates are per second of
the server's own CPU time, so that other work on the machine disturbs them little; a server that keeps its core busy
does as many per second of wall time. Medians; the two servers take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

FIELD, OURS = "field", "ours"
BARS = {64: 1.8, 256: 2.5}
SHORT_BAR = 1.5
TICKS = os.sysconf("SC_CLK_TCK")


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
    """User and system time of a process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


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


def measure(pid: int, port: int, streams: int, events: int) -> float:
    """Chunks a CPU second at one level."""
    before = cpu_seconds(pid)
    seen = consume_streams(port, streams, max(8, events // streams))
    return seen / max(cpu_seconds(pid) - before, 1 / TICKS)


def measure_short(pid: int, port: int, connections: int, requests: int) -> float:
    before = cpu_seconds(pid)
    done = roundtrips(port, connections, requests)
    return done / max(cpu_seconds(pid) - before, 1 / TICKS)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--levels", default="1,16,64,256", help="streams at a time")
    arguments.add_argument("--events", type=int, default=100_000, help="chunks a measurement")
    arguments.add_argument("--requests", type=int, default=8_000, help="short requests a measurement")
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    levels = [int(level) for level in options.levels.split(",")]
    rows: dict[str, dict[str, list[float]]] = {}
    begin_s = time.perf_counter()
    with running(FIELD) as field, running(OURS) as ours:
        for _ in range(options.repeats):
            for name, (pid, port) in ((FIELD, field), (OURS, ours)):
                for level in levels:
                    rate = measure(pid, port, level, options.events)
                    rows.setdefault(f"chunks, {level} streams", {}).setdefault(name, []).append(rate)
                rate = measure_short(pid, port, 16, options.requests)
                rows.setdefault("short requests, 16 connections", {}).setdefault(name, []).append(rate)
    sys.stdout.write(table(rows))
    sys.stdout.write(f"\nmedians of {options.repeats}, {time.perf_counter() - begin_s:.0f} s\n")
    return 0


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    lines = [
        "| per second of one server core | FastAPI + StreamingResponse + pydantic | ours | ratio | bar |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    bars = {f"chunks, {level} streams": bar for level, bar in BARS.items()}
    bars["short requests, 16 connections"] = SHORT_BAR
    for name, rates in rows.items():
        field, ours = statistics.median(rates[FIELD]), statistics.median(rates[OURS])
        bar = f"{bars[name]:.1f}x" if name in bars else ""
        lines.append(f"| {name} | {field:,.0f} | {ours:,.0f} | {ours / field:.2f}x | {bar} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
