"""Whether a grammar can be compiled, found out in processes that may die of it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict

import msgspec

from adapters.grammar_examiner import Trial, Verdict
from engine.errors import EngineOverloadedError, EngineUnavailableError

logger = logging.getLogger(__name__)

MAX_PROCESSES = 4
"""At work at the same time. Each may hang for as long as a trial may take, and the others go on."""
MAX_KNOWN = 4096
MAX_KNOWN_CHARS = 4 << 10
"""A verdict longer than that is not remembered."""
START_TIMEOUT_S = 30.0
FATAL = Verdict("it takes too much memory or is nested too deeply")


class TrialTimeoutError(Exception):
    """No verdict in time."""


class _GoneError(Exception):
    """The process ended: of this grammar, or since it had become large."""


class GrammarTrials:
    """Examiners are started as they are needed. Safe to use from several threads."""

    def __init__(self, max_processes: int = MAX_PROCESSES) -> None:
        self._places = threading.BoundedSemaphore(max_processes)
        self._lock = threading.Lock()
        self._idle: list[_Examiner] = []
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()

    def verdict(self, trial: Trial, timeout_s: float) -> Verdict:
        """Raises TrialTimeoutError, and EngineOverloadedError when all examiners are busy for that long."""
        key = hashlib.blake2b(msgspec.json.encode(trial), digest_size=16).digest()
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known
        if not self._places.acquire(timeout=max(timeout_s, 0)):
            raise EngineOverloadedError("Too many grammars are being compiled. Please try again later.")
        try:
            verdict = self._ask(trial, timeout_s)
        finally:
            self._places.release()
        if len(verdict.reason) + len(verdict.lark) <= MAX_KNOWN_CHARS:
            with self._lock:
                self._known[key] = verdict
                if len(self._known) > MAX_KNOWN:
                    self._known.popitem(last=False)
        return verdict

    def close(self) -> None:
        """Ends the examiners that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for examiner in idle:
            examiner.kill()

    def _ask(self, trial: Trial, timeout_s: float) -> Verdict:
        with self._lock:
            idle = self._idle.pop() if self._idle else None
        if idle is not None:
            with contextlib.suppress(_GoneError):
                return self._ask_one(idle, trial, timeout_s)
        try:
            return self._ask_one(_start(), trial, timeout_s)
        except _GoneError:
            logger.warning("a grammar ended the process that compiled it; its request is refused")
            return FATAL

    def _ask_one(self, examiner: _Examiner, trial: Trial, timeout_s: float) -> Verdict:
        try:
            verdict = examiner.ask(trial, timeout_s)
        except (TrialTimeoutError, _GoneError):
            examiner.kill()
            raise
        with self._lock:
            self._idle.append(examiner)
        return verdict


@functools.cache
def shared_trials() -> GrammarTrials:
    """This process's own."""
    trials = GrammarTrials()
    atexit.register(trials.close)
    return trials


class _Examiner:
    """One process of `adapters.grammar_examiner`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "adapters.grammar_examiner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # panics and failed allocations; the client hears of them
            bufsize=0,
            start_new_session=True,
        )

    def ask(self, trial: Trial, timeout_s: float) -> Verdict:
        """Raises TrialTimeoutError and _GoneError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(trial) + b"\n")
            return self.answer(timeout_s)
        except OSError:
            raise _GoneError from None

    def answer(self, timeout_s: float) -> Verdict:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        give_up_s = time.monotonic() + timeout_s
        line = b""
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, give_up_s - time.monotonic()) * 1000):
                raise TrialTimeoutError
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise _GoneError
            line += part
        return msgspec.json.decode(line, type=Verdict)

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _start() -> _Examiner:
    """Raises EngineUnavailableError when no process can be had."""
    examiner = None
    try:
        examiner = _Examiner()
        examiner.answer(START_TIMEOUT_S)
    except (OSError, _GoneError, TrialTimeoutError) as error:
        if examiner is not None:
            examiner.kill()
        logger.error("no process for compiling grammars could be started: %r", error)
        raise EngineUnavailableError("Grammars cannot be compiled just now.", 1.0) from None
    return examiner
