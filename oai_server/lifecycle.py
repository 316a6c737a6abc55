"""From settings to a running server: one process, or a parent that owns the engine and several HTTP processes.

`serve` is what the command line calls. The listening socket is bound before anything is loaded, so that a taken port
is an error at once, and /health answers within a second while the engine loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import msgspec
from litestar.types import ControllerRouterHandler

from adapters.backend import Backend
from oai_server.app import create_app, make_services
from oai_server.auth import KeyRing
from oai_server.logs import configure_logging
from oai_server.protocol import GuardedConfig
from oai_server.server import Server
from oai_server.services import Services
from oai_server.settings import Settings
from oai_server.shared_counts import (
    CountedRequests,
    SharedCounts,
    SharedKeyLimiter,
    discard_counts,
    forget_worker,
)
from oai_server.shared_metrics import SharedMetrics
from oai_server.signals import NOW, handled_signals
from oai_server.sockets import check_certificate, connection_cap, listening_sockets

logger = logging.getLogger("oai_server")

RESTART_PAUSE_S = 1.0
WATCH_INTERVAL_S = 0.2
"""How often the parent looks whether a worker has died."""
STOP_GRACE_S = 5.0
"""What workers get beyond --shutdown-timeout before they are killed."""


class Worker(msgspec.Struct, frozen=True):
    """Which HTTP process this is."""

    index: int = 0
    count: int = 1
    run_dir: str | None = None
    """Where the engine's socket is, when the parent of several workers owns the engine; None: the worker owns it."""
    metrics_dir: str | None = None
    parent_pid: int | None = None
    """Who started it. Asking the system only once the worker runs is too late: the parent may be dead by then."""
    url: str = ""
    """Where clients reach the server."""
    began_s: float = 0.0
    """When the server was started, in time.monotonic()."""


class EngineHost(Protocol):
    """The engine's owner in the parent of several workers."""

    @property
    def run_dir(self) -> str: ...

    async def start(self) -> None:
        """Begin to start the engine and return at once; from then on it is kept alive."""
        ...

    async def stop(self) -> None: ...


BackendFactory = Callable[[Settings, Worker], Backend]
HostFactory = Callable[[Settings], EngineHost]
RouteFactory = Callable[[], Sequence[ControllerRouterHandler]]


def no_routes() -> Sequence[ControllerRouterHandler]:
    return ()


def serve(
    settings: Settings,
    make_backend: BackendFactory,
    *,
    make_host: HostFactory | None = None,
    make_routes: RouteFactory = no_routes,
    on_listening: Callable[[str], None] | None = None,
) -> int:
    """Serve until a signal comes; the exit code. With several workers the factories must be module-level functions.

    `on_listening` is told the base URL once the port is bound. Raises ConfigurationError when it cannot be.
    """
    began_s = time.monotonic()
    configure_logging(settings.log_level)
    check_certificate(settings)
    listeners = listening_sockets(settings)
    url = base_url(settings, listeners[0])
    _warn_if_open(settings)
    logger.info("listening on %s", url)
    if on_listening is not None:
        on_listening(url)
    worker = Worker(url=url, began_s=began_s)
    if settings.api_workers == 1 or make_host is None:
        return run_worker(settings, make_backend, make_routes, worker, listeners[0])
    return asyncio.run(_Parent(settings, make_backend, make_host, make_routes, listeners, worker).run())


def run_worker(
    settings: Settings,
    make_backend: BackendFactory,
    make_routes: RouteFactory,
    worker: Worker,
    listener: socket.socket,
) -> int:
    """One HTTP process on a socket that listens already."""
    backend = make_backend(settings, worker)
    services = make_services(settings, backend)
    shared = SharedMetrics(services, Path(worker.metrics_dir), worker.index) if worker.metrics_dir else None
    if worker.metrics_dir:
        _share_counts(services, worker)
    app = create_app(settings, backend, extra_routes=make_routes(), services=services)
    config = GuardedConfig(app, settings, max_connections=connection_cap(settings))
    server = Server(config, services, shared.publish if shared is not None else None, worker.parent_pid)
    server.run(sockets=[listener])
    if shared is not None and worker.metrics_dir:
        shared.discard()
        discard_counts(Path(worker.metrics_dir))
    return server.exit_code


def _share_counts(services: Services, worker: Worker) -> None:
    """From now on the limits of keys and /load mean all HTTP processes together."""
    settings = services.settings
    keys = KeyRing(settings.api_key).names or ("",)
    counts = SharedCounts(Path(worker.metrics_dir or ""), worker.index, worker.count, keys)
    services.limiter = SharedKeyLimiter(settings.max_concurrent_requests_per_key, counts)
    services.live = CountedRequests(counts)
    services.published_load = counts.total


def base_url(settings: Settings, listener: socket.socket) -> str:
    """Where a client on this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(settings.host, settings.host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{listener.getsockname()[1]}"


def _warn_if_open(settings: Settings) -> None:
    if not settings.loopback and not settings.api_key:
        logger.warning("listening on %s without an API key: everybody who reaches it may use it", settings.host)


# ---- several workers


def _worker_main(
    settings: Settings,
    make_backend: BackendFactory,
    make_routes: RouteFactory,
    worker: Worker,
    listener: socket.socket,
) -> None:
    configure_logging(settings.log_level)
    sys.exit(run_worker(settings, make_backend, make_routes, worker, listener))


class _Parent:
    """Owns the engine, the sockets and the workers; restarts a worker that dies."""

    def __init__(
        self,
        settings: Settings,
        make_backend: BackendFactory,
        make_host: HostFactory,
        make_routes: RouteFactory,
        listeners: list[socket.socket],
        worker: Worker,
    ) -> None:
        """`worker`: what is the same for all of them."""
        self._settings = settings
        self._make_backend = make_backend
        self._host = make_host(settings)
        self._make_routes = make_routes
        self._listeners = listeners
        self._worker = worker
        self._workers: list[BaseProcess] = []
        self._signals = 0
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        folder = tempfile.TemporaryDirectory(prefix="oai-server-metrics-")
        with handled_signals(self._on_signal), folder as metrics_dir:
            await self._host.start()
            self._workers = [self._start(index, metrics_dir) for index in range(len(self._listeners))]
            await self._watch(metrics_dir)
            for listener in self._listeners:
                listener.close()
            await self._stop_workers()
            await self._host.stop()
        return self._exit_code

    def _start(self, index: int, metrics_dir: str) -> BaseProcess:
        worker = msgspec.structs.replace(
            self._worker,
            index=index,
            count=len(self._listeners),
            run_dir=self._host.run_dir,
            metrics_dir=metrics_dir,
            parent_pid=os.getpid(),
        )
        process = multiprocessing.get_context("spawn").Process(
            target=_worker_main,
            args=(self._settings, self._make_backend, self._make_routes, worker, self._listeners[index]),
            name=f"http-{index}",
        )
        process.start()
        return process

    async def _watch(self, metrics_dir: str) -> None:
        while not self._stopping.is_set():
            for index, process in enumerate(self._workers):
                if process.exitcode is None:
                    continue
                if process.exitcode == 1:  # the worker found the engine dead for good
                    self._exit_code = 1
                    return
                logger.error("HTTP process %d ended with %s; starting another", index, process.exitcode)
                forget_worker(Path(metrics_dir), index, len(self._workers))
                await asyncio.sleep(RESTART_PAUSE_S)
                self._workers[index] = self._start(index, metrics_dir)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), WATCH_INTERVAL_S)

    def _on_signal(self) -> None:
        self._signals += 1
        self._stopping.set()
        if self._signals > 1:
            self._tell(NOW)

    def _tell(self, number: signal.Signals) -> None:
        for process in self._workers:
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, number)

    async def _stop_workers(self) -> None:
        self._tell(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.shutdown_timeout + STOP_GRACE_S
        while any(process.exitcode is None for process in self._workers):
            if time.monotonic() > deadline:
                self._tell(signal.SIGKILL)
            await asyncio.sleep(0.05)
