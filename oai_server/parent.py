"""The parent of several HTTP processes: owns the engine, the sockets and the workers; restarts a worker that dies."""

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
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from oai_server.settings import Settings
from oai_server.shared_counts import forget_worker
from oai_server.signals import NOW, handled_signals
from oai_server.worker import Worker

if TYPE_CHECKING:
    from adapters.engine_host import EngineHost

logger = logging.getLogger("oai_server")

RESTART_PAUSE_S = 1.0
WATCH_INTERVAL_S = 0.2
"""How often the parent looks whether a worker has died."""
STOP_GRACE_S = 5.0
"""What workers get beyond --shutdown-timeout before they are killed."""
ENGINE_DEAD = 70
"""Exit code of a worker that found the engine dead for good. 1 would be that of any exception, too."""

RunWorker = Callable[[Worker, socket.socket], int]


def _worker_main(run: RunWorker, worker: Worker, listener: socket.socket) -> None:
    sys.exit(ENGINE_DEAD if run(worker, listener) else 0)


class Parent:
    """`run_worker`: of a module, for the workers are spawned; `worker`: what is the same for all of them."""

    def __init__(
        self,
        settings: Settings,
        host: EngineHost,
        run_worker: RunWorker,
        listeners: list[socket.socket],
        worker: Worker,
    ) -> None:
        self._host = host
        self._run_worker = run_worker
        self._listeners = listeners
        self._worker = worker
        self._patience_s = settings.shutdown_timeout + STOP_GRACE_S
        self._workers: list[BaseProcess] = []
        self._signals = 0
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Until a signal comes or the engine is dead; the exit code."""
        folder = tempfile.TemporaryDirectory(prefix="oai-server-metrics-")
        with handled_signals(self._on_signal), folder as metrics_dir:
            await self._host.start()
            self._worker = msgspec.structs.replace(
                self._worker,
                count=len(self._listeners),
                run_dir=self._host.run_dir,
                metrics_dir=Path(metrics_dir),
                parent_pid=os.getpid(),
            )
            self._workers = [self._start(index) for index in range(len(self._listeners))]
            exit_code = await self._watch(Path(metrics_dir))
            for listener in self._listeners:
                listener.close()
            await self._stop_workers()
            await self._host.stop()
        return exit_code

    def _start(self, index: int) -> BaseProcess:
        worker = msgspec.structs.replace(self._worker, index=index)
        process = multiprocessing.get_context("spawn").Process(
            target=_worker_main, args=(self._run_worker, worker, self._listeners[index]), name=f"http-{index}"
        )
        process.start()
        return process

    async def _watch(self, metrics_dir: Path) -> int:
        while not self._stopping.is_set():
            for index, process in enumerate(self._workers):
                if process.exitcode is None:
                    continue
                if process.exitcode == ENGINE_DEAD:
                    return 1
                logger.error("HTTP process %d ended with %s; starting another", index, process.exitcode)
                forget_worker(metrics_dir, index, len(self._workers))
                await asyncio.sleep(RESTART_PAUSE_S)
                self._workers[index] = self._start(index)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), WATCH_INTERVAL_S)
        return 0

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
        deadline = time.monotonic() + self._patience_s
        while any(process.exitcode is None for process in self._workers):
            if time.monotonic() > deadline:
                self._tell(signal.SIGKILL)
            await asyncio.sleep(0.05)
