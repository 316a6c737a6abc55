"""One HTTP process: uvicorn with our own start, drain and stop.

After the first SIGTERM or SIGINT: not ready, no new connections, running requests get `--shutdown-timeout` seconds,
then they end with an error event. After the second: at once. The exit code is 0, or 1 when the engine is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn

from oai_server.errors import shutting_down
from oai_server.protocol import GuardedConfig
from oai_server.services import Services
from oai_server.signals import handled_signals

logger = logging.getLogger("oai_server")

FAREWELL_S = 2.0
"""What interrupted requests get to send their error event."""
FORCED_S = 0.5
"""The same after a second signal; then also what the backend gets to stop."""
DEAD_FOR_S = 3.0
"""How long a dead engine is reported by /health before the process exits."""


class Server(uvicorn.Server):
    """`services` are those of the application in `config`. `each_second` is called about that often.

    `parent_pid`: the process that this one must not outlive; None: it has none, and its shell may end.
    """

    def __init__(
        self,
        config: GuardedConfig,
        services: Services,
        each_second: Callable[[], None] | None = None,
        parent_pid: int | None = None,
    ) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._services = services
        self._each_second = each_second
        self._parent_pid = parent_pid
        self._began_s = time.monotonic()
        self._announced = False
        self._dead_since_s: float | None = None

    # ---- signals

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals drain the server instead of raising themselves again at the end, so that the exit code is ours."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Terminals and service managers signal all processes at once: only the parent can tell a second signal.
        worker = self._parent_pid is not None
        with handled_signals(self.drain, self.stop_now) if worker else handled_signals(self.begin_drain):
            yield

    def begin_drain(self) -> None:
        """First call: drain. Second: stop at once."""
        if self._services.draining:
            self.stop_now()
        else:
            self.drain()

    def drain(self) -> None:
        if not self._services.draining:
            logger.info("shutting down; %d requests running", len(self._services.live))
        self._services.draining = True
        self.should_exit = True

    def stop_now(self) -> None:
        self.drain()
        self.force_exit = True

    # ---- life

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            if self._each_second is not None:
                self._each_second()
            if self._parent_pid is not None and os.getppid() != self._parent_pid:
                logger.error("the parent process is gone; shutting down")
                self.begin_drain()
        self._watch_health()
        return await super().on_tick(counter)

    def _watch_health(self) -> None:
        health = self._services.backend.health()
        if health.state == "ready" and not self._announced:
            self._announced = True
            # A full collection over all modules' objects takes tens of milliseconds: once, before any token leaves.
            gc.collect()
            gc.freeze()
            logger.debug("ready after %.1f s", time.monotonic() - self._began_s)
        if health.state != "dead":
            self._dead_since_s = None
        elif self._dead_since_s is None:
            self._dead_since_s = time.monotonic()
            logger.critical("the engine is dead: %s", health.detail or "no reason is known")
        elif time.monotonic() - self._dead_since_s > DEAD_FOR_S and not self.should_exit:
            self.exit_code = 1
            self.begin_drain()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._services.draining = True
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._idle(self._services.settings.shutdown_timeout, forceable=True)
        for running in list(self._services.live):
            running.interrupt(shutting_down())
        await self._idle(FORCED_S if self.force_exit else FAREWELL_S, forceable=False)
        await self._cut_the_rest()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.lifespan.shutdown(), FORCED_S if self.force_exit else None)

    async def _idle(self, timeout_s: float, *, forceable: bool) -> None:
        """Until no request is running, or the time is up, or a second signal came."""
        deadline = time.monotonic() + timeout_s
        while self.server_state.tasks and time.monotonic() < deadline and not (forceable and self.force_exit):
            await asyncio.sleep(0.02)

    async def _cut_the_rest(self) -> None:
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            if self.force_exit or tasks:
                connection.transport.abort()
            else:
                connection.transport.close()
        if tasks:
            await asyncio.wait(tasks, timeout=FORCED_S)
