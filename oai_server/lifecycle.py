"""From settings to a running server: one HTTP process, or a parent that owns the engine and several of them.

The listening socket is bound before anything is loaded, so that a taken port is an error at once, and /health answers
within a second while the engine loads.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from oai_server.logs import configure_logging
from oai_server.parent import Parent
from oai_server.settings import Settings
from oai_server.sockets import check_certificate, listening_sockets
from oai_server.worker import BackendFactory, RouteFactory, Worker, run_worker

if TYPE_CHECKING:
    from adapters.engine_host import EngineHost

__all__ = ["Worker", "base_url", "serve"]

logger = logging.getLogger("oai_server")


def serve(
    settings: Settings,
    make_backend: BackendFactory,
    *,
    make_host: Callable[[Settings], EngineHost],
    make_routes: RouteFactory = tuple,
    on_listening: Callable[[str], None] | None = None,
) -> int:
    """Serve until a signal comes; the exit code. With several workers the factories must be module-level functions.

    `make_host` makes the engine's owner, when there are several. `on_listening` is told the base URL once the port is
    bound. Raises ConfigurationError when it cannot be.
    """
    began_s = time.monotonic()
    configure_logging(settings.log_level)
    check_certificate(settings)
    listeners = listening_sockets(settings)
    worker = Worker(base_url(settings, listeners[0]), began_s)
    if not settings.loopback and not settings.api_key:
        logger.warning("listening on %s without an API key: everybody who reaches it may use it", settings.host)
    logger.info("listening on %s", worker.url)
    if on_listening is not None:
        on_listening(worker.url)
    run = partial(run_worker, settings, make_backend, make_routes)
    if settings.api_workers == 1:
        return run(worker, listeners[0])
    return asyncio.run(Parent(settings, make_host(settings), run, listeners, worker).run())


def base_url(settings: Settings, listener: socket.socket) -> str:
    """Where a client on this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(settings.host, settings.host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{listener.getsockname()[1]}"
