"""One HTTP process: the only one, or one of several workers before an engine that their parent owns."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

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
from oai_server.shared_counts import CountedRequests, SharedCounts, SharedKeyLimiter
from oai_server.shared_metrics import SharedMetrics
from oai_server.sockets import connection_cap


class Worker(msgspec.Struct, frozen=True):
    """Which HTTP process this is. The fields that may be None are those of a worker with a parent."""

    url: str = ""
    """Where clients reach the server."""
    began_s: float = 0.0
    """When the server was started, in time.monotonic()."""
    index: int = 0
    count: int = 1
    run_dir: str | None = None
    """Where the engine's socket is."""
    metrics_dir: Path | None = None
    """Where the processes share their numbers."""
    parent_pid: int | None = None
    """Asking the system only once the worker runs is too late: the parent may be dead by then."""


BackendFactory = Callable[[Settings, Worker], Backend]
RouteFactory = Callable[[], Sequence[ControllerRouterHandler]]


def run_worker(
    settings: Settings,
    make_backend: BackendFactory,
    make_routes: RouteFactory,
    worker: Worker,
    listener: socket.socket,
) -> int:
    """Serve on a socket that listens already; the exit code."""
    configure_logging(settings.log_level)
    backend = make_backend(settings, worker)
    services = make_services(settings, backend)
    shared = _share(services, worker, worker.metrics_dir) if worker.metrics_dir is not None else None
    app = create_app(settings, backend, extra_routes=make_routes(), services=services)
    config = GuardedConfig(app, settings, max_connections=connection_cap(settings))
    server = Server(config, services, shared.publish if shared is not None else None, worker.parent_pid)
    server.run(sockets=[listener])
    if shared is not None:
        shared.discard()
    return server.exit_code


def _share(services: Services, worker: Worker, folder: Path) -> SharedMetrics:
    """From now on the limits of keys, /load and /metrics mean all HTTP processes together."""
    keys = KeyRing(services.settings.api_key).names or ("",)
    counts = SharedCounts(folder, worker.index, worker.count, keys)
    services.limiter = SharedKeyLimiter(services.settings.max_concurrent_requests_per_key, counts)
    services.live = CountedRequests(counts)
    services.published_load = counts.total
    return SharedMetrics(services, folder, worker.index)
