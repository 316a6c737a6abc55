"""The supervisor's judgement: silence, idleness, back-off, last words. Whole lives are in tests/faults."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.process.shared_state import SharedState, read_state, state_path, write_state
from engine.process.silence import Silence, cpu_seconds
from engine.process.supervisor import Supervisor, SupervisorLimits, _describe_exit, _parse


@pytest.fixture
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield process
    process.kill()
    process.wait()


def test_silence_is_counted_in_ticks_and_ends_with_a_word() -> None:
    silence = Silence(os.getpid(), heard=3)
    for _ in range(4):
        silence.tick(3, 0.25)
    assert (silence.seconds, silence.broken_before) == (1.0, False)
    silence.tick(4, 0.25)
    assert (silence.seconds, silence.broken_before) == (0.0, True)


def test_a_stopped_process_is_idle_and_a_computing_one_is_not(busy_process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 60
    while cpu_seconds(busy_process.pid) < 0.05 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    working = Silence(busy_process.pid, 0)
    working.seconds = 1.0
    assert not working.idle
    os.kill(busy_process.pid, signal.SIGSTOP)
    time.sleep(0.05)
    stopped = Silence(busy_process.pid, 0)
    stopped.tick(1, 1.0)
    stopped.tick(1, 1.0)
    assert stopped.idle


def test_last_words_and_exits() -> None:
    assert _parse(b"") is None
    assert _parse(b"something that a library printed") is None
    words = _parse(b'{"message":"no such file","permanent":true}\n')
    assert words is not None
    assert (words.message, words.permanent) == ("no such file", True)
    assert _describe_exit(-9) == "killed by signal 9"
    assert _describe_exit(3) == "exit status 3"


def test_shared_state_is_replaced_as_a_whole(tmp_path: Path) -> None:
    assert read_state(str(tmp_path)) is None
    write_state(str(tmp_path), SharedState("ready"))
    write_state(str(tmp_path), SharedState("dead", "no memory", 3))
    assert read_state(str(tmp_path)) == SharedState("dead", "no memory", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    state_path(str(tmp_path)).write_text("{")
    assert read_state(str(tmp_path)) is None


@dataclass
class Heard:
    messages_heard: int = 0
    outputs_heard: int = 0


async def test_an_engine_that_never_says_a_word_is_given_up(tmp_path: Path) -> None:
    """The runner's module does not exist: each process ends with an error of its own."""
    states: list[str] = []
    supervisor = Supervisor(
        EngineConfig(model_path=str(tmp_path)),
        str(tmp_path / "run"),
        Heard(),
        states.append,
        limits=SupervisorLimits(max_failures=1, backoff_s=(0.0,)),
        runner="no.such.module:build",
    )
    supervisor.start()
    async with asyncio.timeout(60):
        while supervisor.state != "dead":
            await asyncio.sleep(0.05)
    assert states == ["restarting", "dead"]
    assert (supervisor.epoch, supervisor.restarts) == (2, 1)
    assert "died 2 times in a row" in supervisor.reason
    assert "No module named 'no'" in supervisor.reason
    await supervisor.stop()
    await supervisor.stop()
    assert supervisor.engine_pid is None
