"""Many connections that are slow, silent or idle, against a server process (rows A06, A11, A12, A13)."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.live_server import server_process
from tests.support.patience import PATIENCE_S, wait_for
from tests.support.silent_clients import connect

HEADERS = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def crowd() -> Iterator[list[socket.socket]]:
    """Connections, closed at the end."""
    connections: list[socket.socket] = []
    yield connections
    for connection in connections:
        connection.close()


def check_health(url: str) -> None:
    assert httpx.get(f"{url}/health", timeout=PATIENCE_S, verify=False).status_code == 200


def check_alive(url: str) -> None:
    """INV: it answers, and answers right."""
    check_health(url)
    body = {"prompt": "one two three", "max_tokens": 3}
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=PATIENCE_S, verify=False)
    assert reply.json()["choices"][0]["text"] == "one two three"


def everything(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def num_closed(connections: list[socket.socket]) -> int:
    """How many of them the server has ended."""
    poll = select.poll()
    by_descriptor = {connection.fileno(): connection for connection in connections}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    return sum(_at_end(by_descriptor[descriptor]) for descriptor, _ in poll.poll(0))


def _at_end(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def num_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a06_chunks_of_impossible_sizes(crowd: list[socket.socket]) -> None:
    with server_process(access_log=False, max_body_mib=0.1, body_timeout=1.0) as (_, url):
        chunked = HEADERS + b"Transfer-Encoding: chunked\r\n\r\n"
        cases = {
            b"fffffffffffffffff\r\nab": {b"400"},
            b"-1\r\nab": {b"400"},
            b"1\r\nab": {b"400"},
            b"0x2\r\n{}": {b"400"},
            b"ffffffffffffffff\r\n" + b" " * (1 << 20): {b"413", b"400"},
            b"ffffffffffffffff\r\nab": {b"400", b"408"},
        }
        for data, statuses in cases.items():
            connection = connect(url)
            crowd.append(connection)
            with contextlib.suppress(ConnectionError):  # refused while it still sends
                connection.sendall(chunked + data)
            reply = everything(connection)
            assert reply[9:12] in statuses or (not reply and len(data) > 1000), (data[:30], reply[:200])
        check_alive(url)


def test_a11_bodies_that_never_come_free_their_places(crowd: list[socket.socket]) -> None:
    with server_process(access_log=False, body_timeout=1.0, max_connections=60) as (process, url):
        idle = num_files(process.pid)
        began_s = time.monotonic()
        for _ in range(50):
            crowd.append(connect(url))
            crowd[-1].sendall(HEADERS + b'Content-Length: 5000\r\n\r\n{"prompt": ')
        check_health(url)
        assert all(everything(connection).startswith(b"HTTP/1.1 408") for connection in crowd)
        assert time.monotonic() - began_s >= 1
        check_alive(url)
        wait_for(lambda: num_files(process.pid) <= idle + 4, "their descriptors are free")


def test_a12_two_hundred_slowloris(crowd: list[socket.socket]) -> None:
    with server_process(access_log=False, header_timeout=1.5) as (_, url):
        began_s = time.monotonic()
        crowd += [connect(url) for _ in range(200)]
        for connection in crowd:
            with contextlib.suppress(OSError):
                connection.sendall(HEADERS)

        def all_ended() -> bool:
            for connection in crowd:
                with contextlib.suppress(OSError):
                    connection.send(b"x")
            check_health(url)
            return num_closed(crowd) == len(crowd)

        wait_for(all_ended, "all are cut off")
        assert time.monotonic() - began_s >= 1.5
        check_alive(url)


def test_a13_two_thousand_idle_connections(crowd: list[socket.socket]) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2500:
        pytest.skip("too few file descriptors")
    with server_process(access_log=False, keep_alive_timeout=3.0, header_timeout=2.0) as (process, url):
        idle = num_files(process.pid)
        for i in range(2000):
            crowd.append(connect(url))
            if i % 2:  # the others never say a word
                crowd[-1].sendall(GET_HEALTH)
        check_health(url)
        answers = [connection.recv(4096) for connection in crowd[1::2]]
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
        check_health(url)
        while num_closed(crowd) < len(crowd):
            check_health(url)
            time.sleep(0.1)
        check_alive(url)
        wait_for(lambda: num_files(process.pid) <= idle + 4, "their descriptors are free")
