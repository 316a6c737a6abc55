"""Ties the engine's process to its parent: no orphan, whatever way the parent dies.

The parent writes one line of settings to the engine's standard input and keeps the pipe open. Its end of file means
stop: the parent closed it, or the kernel did for a parent that was killed. On Linux a signal at the parent's death
comes on top of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine.process.messages import LastWords, Launch

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
GRACE_S = 3.0
"""From the end of the pipe until the process ends itself even if its main thread hangs."""


def read_launch() -> Launch:
    """The settings that the parent wrote. Read without buffering: the rest of the pipe is watched afterwards."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            raise EOFError("standard input ended before the settings were complete")
        line += byte
    return msgspec.json.decode(bytes(line), type=Launch)


def claim_output() -> Callable[[LastWords], None]:
    """Keeps standard output for the last words alone; whatever else is printed goes to standard error."""
    last_words_fd = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(words: LastWords) -> None:
        with contextlib.suppress(OSError):
            os.write(last_words_fd, msgspec.json.encode(words) + b"\n")

    return say


def parent_is_gone(parent_pid: int) -> bool:
    """Whether the parent has ended, or ends: a process that is killed goes thread by thread.

    Its children have the signal from the first of them, while its number is still theirs and its pipes are open.
    """
    if os.getppid() != parent_pid:
        return True
    try:
        state = Path(f"/proc/{parent_pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # a system that does not tell
        return False
    return state in ("Z", "X")


def end_with_parent(parent_pid: int) -> bool:
    """Have SIGTERM sent to this process when its parent ends, on Linux. False: that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return not parent_is_gone(parent_pid)


def follow_parent(parent_pid: int, stop: threading.Event, clean_up: Callable[[], None]) -> None:
    """Sets `stop` when the parent is gone or wants an end; if that is not heeded, cleans up and ends the process."""
    if not end_with_parent(parent_pid):
        stop.set()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 4096):
                pass
        stop.set()
        finished.wait(GRACE_S)
        clean_up()
        os._exit(1)

    finished = threading.Event()
    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def heed_signals(stop_when_idle: threading.Event, stop: threading.Event) -> None:
    """SIGTERM: end once no request is left (a second one: now). SIGINT and SIGHUP are the parent's business."""

    def on_terminate(_signal: int, _frame: object) -> None:
        if stop_when_idle.is_set():
            stop.set()
        stop_when_idle.set()

    signal.signal(signal.SIGTERM, on_terminate)
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
