"""Start, drain and stop of real server processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.errors import ConfigurationError
from oai_server.app import create_app, make_services
from oai_server.lifecycle import base_url
from oai_server.parent import Parent
from oai_server.protocol import GuardedConfig
from oai_server.server import Server
from oai_server.settings import Settings
from oai_server.sockets import connection_cap, listening_sockets
from oai_server.worker import Worker
from tests.support.fake_backend import FakeBackend
from tests.support.fault_tree import descendants
from tests.support.live_server import FakeHost, server_process
from tests.support.patience import PATIENCE_S, wait_for

CLIENT = httpx.Client(verify=False, timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0))
"""Every request on a connection of its own; no certificates are loaded."""

BODY = {"prompt": "a b c", "max_tokens": 40, "stream": True}


class Stream:
    """A stream read in a thread, whose first token has come."""

    def __init__(self, url: str, body: dict[str, Any] = BODY) -> None:
        self.lines: list[str] = []
        self.error: Exception | None = None
        self._url, self._body = url, body
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_for(lambda: self.lines or not self._thread.is_alive(), "the first token")

    def _read(self) -> None:
        try:
            with CLIENT.stream("POST", self._url + "/v1/completions", json=self._body) as reply:
                for line in reply.iter_lines():
                    self.lines += [line] if line else []
        except httpx.HTTPError as error:
            self.error = error

    def _collect(self) -> None:
        self._thread.join(PATIENCE_S)

    @property
    def events(self) -> list[str]:
        self._collect()
        return self.lines


@pytest.mark.parametrize("workers", [1, 2])
def test_g09_drain_lets_streams_finish(workers: int) -> None:
    with server_process({"delay_s": 0.03}, shutdown_timeout=60.0, api_workers=workers) as (process, url):
        stream = Stream(url)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: is_closed(url), "the listener is closed")
        assert stream.events[-1] == "data: [DONE]" and '"finish_reason":"length"' in stream.events[-2]
        assert process.wait(PATIENCE_S) == 0


def is_closed(url: str) -> bool:
    try:
        CLIENT.get(url + "/health")
    except httpx.TransportError:
        return True
    return False


def test_g09_after_the_timeout_streams_end_with_an_error_event() -> None:
    with server_process({"delay_s": 0.2}, shutdown_timeout=0.0) as (process, url):
        stream = Stream(url, {**BODY, "max_tokens": 1000})
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        failure = json.loads(stream.events[-2].removeprefix("data: "))["error"]
        assert failure["code"] == "shutting_down" and stream.events[-1] == "data: [DONE]"


def test_a_whole_answer_is_told_too() -> None:
    with server_process({"delay_s": 10.0}, shutdown_timeout=0.0) as (process, url):
        replies: list[httpx.Response] = []
        body = {**BODY, "stream": False}
        thread = threading.Thread(target=lambda: replies.append(CLIENT.post(url + "/v1/completions", json=body)))
        thread.start()
        wait_for(lambda: load(url) == 1, "it runs")
        process.send_signal(signal.SIGTERM)
        thread.join(PATIENCE_S)
        assert replies[0].status_code == 503 and replies[0].json()["error"]["code"] == "shutting_down"
        assert process.wait(PATIENCE_S) == 0


def load(url: str) -> int:
    """Requests in work in all processes."""
    return int(CLIENT.get(url + "/load").json()["server_load"])


def test_work_on_kept_connections_is_refused_while_draining() -> None:
    with server_process({"delay_s": 0.05}, shutdown_timeout=60.0) as (process, url), httpx.Client() as client:
        assert client.get(url + "/health").status_code == 200
        stream = Stream(url)
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as kept:
            body = json.dumps({**BODY, "max_tokens": 30, "stream": False}).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            kept.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda: load(url) == 2, "both run")
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: is_closed(url), "it drains")
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")  # pipelined behind running work
            received = b""
            with contextlib.suppress(OSError):
                while part := kept.recv(65536):
                    received += part
            assert received.startswith(b"HTTP/1.1 200") and b"connection: close" in received
        assert stream.events[-1] == "data: [DONE]"
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_g10_the_second_signal_is_at_once(workers: int) -> None:
    with server_process({"delay_s": 5.0}, shutdown_timeout=1000.0, api_workers=workers) as (process, url):
        thread = threading.Thread(target=lambda: _swallow(url))
        thread.start()
        wait_for(lambda: load(url) == 1, "it runs")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: is_closed(url), "it drains")
        assert process.poll() is None
        process.send_signal(signal.SIGINT if workers == 1 else signal.SIGTERM)
        process.wait(PATIENCE_S)  # a drain would take minutes
        thread.join(PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_to_all_processes_is_the_first_one(workers: int, number: signal.Signals) -> None:
    """Ctrl-C in a terminal, and service managers, signal the whole tree."""
    with server_process({"delay_s": 0.03}, shutdown_timeout=60.0, api_workers=workers) as (process, url):
        stream = Stream(url)
        for pid in (process.pid, *descendants(process.pid)):
            os.kill(pid, number)
        assert stream.events[-1] == "data: [DONE]" and '"finish_reason":"length"' in stream.events[-2]
        assert process.wait(PATIENCE_S) == 0


def _swallow(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        CLIENT.post(url + "/v1/completions", json=BODY)


@pytest.mark.parametrize("workers", [1, 2])
def test_g11_other_signals_do_not_kill(workers: int) -> None:
    with server_process(api_workers=workers) as (process, url):
        for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
        for _ in range(5):
            assert CLIENT.get(url + "/health").status_code == 200
            time.sleep(0.05)
        assert process.poll() is None


def test_g22_few_file_descriptors() -> None:
    with server_process(descriptors=64, header_timeout=1.0) as (_, url):
        port = int(url.rsplit(":", 1)[1])
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        time.sleep(0.3)
        for connection in connections:
            connection.close()
        wait_for(lambda: is_healthy(url), "their places are free")
        for _ in range(3):
            assert is_healthy(url)


def is_healthy(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return CLIENT.get(url + "/health").status_code == 200
    return False


def test_g20_a_taken_port_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for workers in (1, 2):
            with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}.*--port"):
                listening_sockets(Settings(port=port, api_workers=workers))
    with pytest.raises(ConfigurationError, match="--host"):
        listening_sockets(Settings(host="no.such.host.invalid", port=0))


def test_g26_two_servers_cannot_share_a_port_but_one_can_follow() -> None:
    first = listening_sockets(Settings(port=0, api_workers=2))
    port = first[0].getsockname()[1]
    for workers in (1, 2):
        with pytest.raises(ConfigurationError, match="in use"):
            listening_sockets(Settings(port=port, api_workers=workers))
    for listener in first:
        listener.close()
    again = listening_sockets(Settings(port=port, api_workers=2))
    assert {listener.getsockname()[1] for listener in again} == {port}
    for listener in again:
        listener.close()


def test_what_connections_inherit() -> None:
    (listener,) = listening_sockets(Settings(port=0, send_buffer_kib=64, write_timeout=7.0))
    with listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 64 * 1024
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


def test_connection_cap_leaves_descriptors() -> None:
    assert 8 <= connection_cap(Settings(max_connections=1 << 30)) < 1 << 30
    assert connection_cap(Settings(max_connections=100)) == 100


@pytest.mark.parametrize(
    ("host", "start"),
    [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:")],
)
def test_base_url(host: str, start: str) -> None:
    with contextlib.closing(listening_sockets(Settings(host=host, port=0))[0]) as listener:
        assert base_url(Settings(host=host), listener).startswith(start)


# ---- several workers


def workers_of(pid: int) -> set[int]:
    return {child for child, command in descendants(pid).items() if "spawn_main" in command}


def test_workers_share_the_load_and_the_numbers_and_are_replaced() -> None:
    with server_process(api_workers=2) as (process, url):
        for _ in range(60):
            reply = CLIENT.post(url + "/v1/completions", json={"prompt": "a", "max_tokens": 1})
            assert reply.status_code == 200
        line = 'vllm:request_success_total{engine="0",finished_reason="length",model_name="fake"} 60.0'

        def all_say_so() -> bool:
            """Each call is a new connection, which meets any of them."""
            return all(line in CLIENT.get(url + "/metrics").text for _ in range(8))

        wait_for(all_say_so, "both tell the numbers of both")
        workers = workers_of(process.pid)
        assert len(workers) == 2
        killed = min(workers)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(workers_of(process.pid) - {killed}) == 2, "another takes its place")
        wait_for(lambda: all(is_healthy(url) for _ in range(20)), "both answer")
        wait_for(all_say_so, "a replaced worker's numbers are kept")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_g14_workers_end_with_their_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with server_process(api_workers=2) as (process, _):
        workers = workers_of(process.pid)
        assert len(workers) == 2
        process.kill()
        process.wait(PATIENCE_S)
        wait_for(lambda: not any(_running(pid) for pid in workers), "they end")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parent_pid", "drains"),
    [(os.getpid(), True), (os.getppid(), False), (None, False)],
    ids=["another's child", "its child", "alone"],
)
async def test_g14_a_parent_that_died_before_its_worker_ran_is_noticed(parent_pid: int | None, drains: bool) -> None:
    """Whose child this process is not (its own), whose it is, and a server alone, which may outlive its shell."""
    settings, backend = Settings(port=0), FakeBackend()
    services = make_services(settings, backend)
    app = create_app(settings, backend, services=services)
    server = Server(GuardedConfig(app, settings, max_connections=10), services, parent_pid=parent_pid)
    server.config.load()
    assert await server.on_tick(0) is drains
    assert services.draining is drains


def crash_once(flags: Path, worker: Worker, listener: socket.socket) -> int:
    """A worker whose first life ends with an exception."""
    flag = flags / f"{worker.index}"
    if worker.index == 1 and not flag.exists():
        flag.touch()
        raise RuntimeError("a bug")
    (flags / f"{worker.index} runs").touch()
    time.sleep(PATIENCE_S)
    return 0


async def test_a_worker_that_crashed_is_replaced_and_ends_nobody_else(tmp_path: Path) -> None:
    """Only a dead engine ends all of them, whatever Python's exit code for exceptions is."""
    settings = Settings(port=0, api_workers=2, shutdown_timeout=0)
    parent = Parent(settings, FakeHost(), partial(crash_once, tmp_path), listening_sockets(settings), Worker())
    running = asyncio.create_task(parent.run())
    while len(list(tmp_path.glob("* runs"))) < 2:
        assert not running.done()
        await asyncio.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert (tmp_path / "1").exists()


class CannotStart(FakeBackend):
    async def start(self) -> None:
        raise OSError("no room for a socket")

    async def stop(self) -> None:
        raise AttributeError("there is nothing to stop")


async def test_a_backend_that_cannot_start_says_why() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no room for a socket"), allow_unwrapped=True):
        async with create_app(Settings(), CannotStart()).lifespan():
            pass


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_g23_closed_standard_error_does_not_stop_the_server() -> None:
    with server_process() as (process, url):
        assert process.stderr is not None
        process.stderr.close()
        for _ in range(5):
            reply = CLIENT.post(url + "/v1/completions", json={"prompt": "a", "max_tokens": 1})
            assert reply.status_code == 200
