"""The engine's side of the socket: which fronts there are, what they ask and what they are sent.

A ROUTER socket on `<run_dir>/engine.sock`. A front introduces itself with Hello, which names its process; when that
process ends (pidfd), the front is reported as departed. Messages that cannot be decoded are logged and dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import zmq

from engine.process.messages import EngineMessage, FrontMessage, Hello, Progress, socket_path

logger = logging.getLogger(__name__)

MAX_QUEUED_MESSAGES = 20_000
"""Messages kept for a front that does not read; at 100 steps a second it has been away for minutes."""
MAX_MESSAGES_A_TURN = 256
PROGRESS_INTERVAL_S = 0.5

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[FrontMessage] = msgspec.msgpack.Decoder(FrontMessage)


@dataclass(slots=True)
class Front:
    """A process that sends requests."""

    pid: int
    pid_fd: int
    """Readable once the process has ended; -1 where the system has no pidfd."""


class Door:
    """Owner of the ROUTER socket. One thread at a time may use it."""

    def __init__(self, run_dir: str) -> None:
        os.makedirs(run_dir, mode=0o700, exist_ok=True)
        self._path = socket_path(run_dir)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.SNDHWM, MAX_QUEUED_MESSAGES)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(f"ipc://{self._path}")
        os.chmod(self._path, 0o600)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self.fronts: dict[bytes, Front] = {}

    def receive(self, timeout_ms: int) -> list[tuple[bytes, FrontMessage]]:
        """Everything that has arrived, at most 256 messages; waits up to `timeout_ms` for the first one."""
        if timeout_ms:
            self._poller.poll(timeout_ms)
        messages: list[tuple[bytes, FrontMessage]] = []
        for _ in range(MAX_MESSAGES_A_TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                identity, payload = frames
                message = _decoder.decode(payload)
            except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
                logger.warning("dropped a malformed message of %d frames: %s", len(frames), error)
                continue
            messages.append((identity, message))
        return messages

    def send(self, identity: bytes, message: EngineMessage) -> bool:
        """False when the front is gone or has stopped reading: nothing was sent."""
        try:
            self._socket.send_multipart((identity, _encoder.encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError as error:  # EAGAIN: its queue is full; EHOSTUNREACH: it has closed the connection
            logger.debug("a front cannot be reached: %s", error)
            return False
        return True

    def introduce(self, identity: bytes, hello: Hello) -> bool:
        """Remembers a front; False when it was known already."""
        if identity in self.fronts:
            return False
        pid_fd = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                pid_fd = os.pidfd_open(hello.pid)
                self._poller.register(pid_fd, zmq.POLLIN)
        self.fronts[identity] = Front(hello.pid, pid_fd)
        return True

    def forget(self, identity: bytes) -> None:
        front = self.fronts.pop(identity, None)
        if front is not None and front.pid_fd >= 0:
            self._poller.unregister(front.pid_fd)
            os.close(front.pid_fd)

    def departed(self) -> list[bytes]:
        """Forgets the fronts whose process has ended and names them."""
        gone = [identity for identity, front in self.fronts.items() if _has_ended(front)]
        for identity in gone:
            self.forget(identity)
        return gone

    def close(self) -> None:
        self._context.destroy(linger=200)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _has_ended(front: Front) -> bool:
    if front.pid_fd >= 0:
        poll = select.poll()
        poll.register(front.pid_fd, select.POLLIN)
        return bool(poll.poll(0))
    try:
        os.kill(front.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class LoadingReport:
    """Where loading stands; written by the loader, read by the thread that answers fronts meanwhile."""

    def __init__(self, epoch: int) -> None:
        self.progress = Progress(epoch, "process", 0.0)

    def __call__(self, phase: str, fraction: float, detail: str = "") -> None:
        self.progress = Progress(self.progress.epoch, phase, min(max(fraction, 0.0), 1.0), detail)


@contextlib.contextmanager
def answering_while_loading(door: Door, epoch: int) -> Iterator[LoadingReport]:
    """Lends the door to a thread that sends Progress, so that the main thread can load; hands it back at the end."""
    report = LoadingReport(epoch)
    done = threading.Event()

    def answer() -> None:
        sent: Progress | None = None
        due_s = 0.0
        while not done.is_set():
            for identity, message in door.receive(timeout_ms=50):
                if isinstance(message, Hello):
                    door.introduce(identity, message)
                    due_s = 0.0
            door.departed()
            if report.progress is not sent or time.monotonic() >= due_s:
                sent, due_s = report.progress, time.monotonic() + PROGRESS_INTERVAL_S
                for identity in door.fronts:
                    door.send(identity, sent)

    thread = threading.Thread(target=answer, name="loading-answers", daemon=True)
    thread.start()
    try:
        yield report
    finally:
        done.set()
        thread.join()
