"""A real server on a real socket over a FakeBackend: in a thread (whose backend the test sees) or a process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from adapters.backend import Backend
from oai_server.app import create_app, make_services
from oai_server.protocol import GuardedConfig
from oai_server.server import Server
from oai_server.services import Services
from oai_server.settings import Settings
from oai_server.sockets import connection_cap, listening_sockets
from tests.support.fake_backend import FakeBackend, Script
from tests.support.fake_server import FakeHost as FakeHost
from tests.support.patience import PATIENCE_S, wait_for

ROOT = Path(__file__).parent.parent.parent


@dataclasses.dataclass
class LiveServer:
    """A running server in a thread of this process."""

    url: str
    port: int
    backend: FakeBackend
    services: Services
    server: Server
    loop: asyncio.AbstractEventLoop
    client: httpx.Client

    def raw(self, timeout_s: float = PATIENCE_S) -> socket.socket:
        """A bare connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def send(self, data: bytes) -> bytes:
        """Bytes there, and everything back until the server closes."""
        with self.raw() as connection:
            connection.sendall(data)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    received += part
            return received

    def post(self, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        return self.client.post(path, json=body, **kwargs)

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.client.get(path, **kwargs)

    def wait_idle(self) -> None:
        """Until nothing is running in the backend, and no request in the server."""
        wait_for(lambda: not (self.backend.live or self.services.live or self.server.server_state.tasks), "idle")

    def check_alive(self) -> None:
        """INV of every fault: nothing runs, /health answers, and a request is served right."""
        self.wait_idle()
        assert self.get("/health").status_code == 200
        keys = self.services.settings.api_key
        headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
        reply = self.post("/v1/completions", {"prompt": "one two three", "max_tokens": 3}, headers=headers)
        assert reply.json()["choices"][0]["text"] == "one two three"
        self.wait_idle()


@contextlib.contextmanager
def live_server(
    script: Script | None = None, *, engine: Backend | None = None, **settings: Any
) -> Iterator[LiveServer]:
    """A server in a thread, stopped at the end. `engine`: a real backend instead of the fake one."""
    settings = {"port": 0, "access_log": False, "shutdown_timeout": 0.2, **settings}
    config = Settings(**settings)
    backend: Any = engine or FakeBackend(script)
    services = make_services(config, backend)
    listener = listening_sockets(config)[0]
    port = listener.getsockname()[1]
    app = create_app(config, backend, services=services)
    server = Server(GuardedConfig(app, config, max_connections=connection_cap(config)), services)
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=PATIENCE_S, verify=False) as client:
            yield LiveServer(url, port, backend, services, server, loops[0], client)
    finally:
        if thread.is_alive():
            loops[0].call_soon_threadsafe(server.begin_drain)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


# ---- in a process


@contextlib.contextmanager
def server_process(
    script: dict[str, Any] | None = None, *, descriptors: int | None = None, **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(process, base URL) of `serve` in a child of its own, killed at the end if it still runs.

    `descriptors`: its limit of open files.
    """
    settings = {"port": 0, **settings}
    files = (descriptors or 0, descriptors or 0)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fake_server", json.dumps(settings)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if descriptors is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files),
        env={**os.environ, "FAKE_SCRIPT": json.dumps(script or {}), "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    lines = []
    while "listening on" not in (line := process.stderr.readline()):
        lines.append(line)
        assert process.poll() is None, lines
    url = line.split("listening on ")[1].strip()
    try:
        wait_for(lambda: _is_live(url), "the server lives")
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        process.stderr.close()


def _is_live(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url + "/livez", timeout=PATIENCE_S, verify=False).status_code == 200
    return False
