"""Starts the engine's process, notices when it ends or hangs, and starts the next one. No torch.

It lives where the process tree begins: in the HTTP process, or in the parent of several.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from engine.config import EngineConfig
from engine.process.messages import LastWords, Launch, started_path
from engine.process.silence import Silence

logger = logging.getLogger(__name__)

SupervisorState = Literal["starting", "ready", "restarting", "dead", "stopped"]
DEFAULT_RUNNER = "engine.runner.factory:build_runner"


class SupervisorLimits(msgspec.Struct, frozen=True):
    """When the supervisor loses patience."""

    first_word_timeout_s: float = 300.0
    """From the start of the process to its first message; importing torch from a cold disk is slow."""
    hang_timeout_s: float = 30.0
    """Silence of an engine on an accelerator."""
    hang_timeout_cpu_s: float = 120.0
    """Silence of an engine on a CPU, where one chunk of prefill of a large model may take long ..."""
    idle_timeout_s: float = 10.0
    """... and of one that uses no processor time meanwhile: it computes nothing, so it hangs."""
    max_failures: int = 5
    """Engines in a row that died before they had begun any request; then the supervisor gives up."""
    max_failures_at_work: int = 64
    """The same for engines that had begun some but produced nothing: requests that kill are sought by such deaths."""
    healthy_after_s: float = 10.0
    """An engine that lived this long after it was ready counts as a success even if nobody asked it anything."""
    backoff_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
    """Pause before the n-th start in a row."""
    stop_timeout_s: float = 4.0
    tick_s: float = 0.25


class HeardCounts(Protocol):
    """What the supervisor reads of an EngineClient: is there any sign of life?"""

    messages_heard: int
    outputs_heard: int


class Supervisor:
    """One engine at a time, under one run directory. `epoch` counts the processes."""

    def __init__(
        self,
        config: EngineConfig,
        run_dir: str,
        heard: HeardCounts,
        on_state: Callable[[SupervisorState], None],
        *,
        limits: SupervisorLimits | None = None,
        runner: str = DEFAULT_RUNNER,
        log_level: str = "INFO",
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._heard = heard
        self._on_state = on_state
        self._limits = limits or SupervisorLimits()
        self._command = ("-m", "engine.process.server", "--runner", runner, "--log-level", log_level)
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._device = "cpu"
        self._ready_s: float | None = None
        self.state: SupervisorState = "starting"
        self.reason = ""
        """Why the last engine ended; with state dead, why there will be no other."""
        self.epoch = 0
        self.restarts = 0
        self._silence: Silence | None = None
        self._failures = 0
        self._failures_at_work = 0

    @property
    def engine_pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        """Needs a running loop. Returns at once."""
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name="engine-supervisor")

    async def stop(self) -> None:
        """Ends the engine: asked first, killed after `stop_timeout_s`."""
        if self._task is None:
            return
        self._change("stopped")
        process = self._process
        if process is not None and process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), self._limits.stop_timeout_s)
        self._kill()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if process is not None:
            await process.wait()
        self._task = None

    def note_ready(self, epoch: int, device: str) -> None:
        """The engine has said Welcome."""
        if epoch == self.epoch and self.state in ("starting", "restarting"):
            self._device = device
            self._ready_s = asyncio.get_running_loop().time()
            self._change("ready")

    def note_culprit(self) -> None:
        """A request was refused for the last death: that one shall not count, since no other engine will meet it."""
        self._failures_at_work = max(self._failures_at_work - 1, -1)

    async def _supervise(self) -> None:
        while True:
            pauses = self._limits.backoff_s
            # Deaths at work come to an end, each with a request refused or put on trial: no long pause between them.
            step = self._failures + min(max(self._failures_at_work, 0), 2)
            await asyncio.sleep(pauses[min(step, len(pauses) - 1)])
            outputs_before = self._heard.outputs_heard
            self.reason, permanent = await self._live_through_one_engine()
            if self.state == "stopped":
                return
            logger.error("the engine's process (epoch %d) ended: %s", self.epoch, self.reason)
            self._count_failure(self._was_useful(outputs_before))
            if permanent or self._has_failed_too_often():
                if not permanent:
                    failures = self._failures + self._failures_at_work
                    self.reason = (
                        f"the engine died {failures} times in a row without any progress; last: {self.reason}"
                    )
                self._change("dead")
                return
            self.restarts += 1
            self._change("restarting")

    def _count_failure(self, useful: bool) -> None:
        if useful:
            self._failures, self._failures_at_work = 1, 0
        elif self._had_begun_requests():
            self._failures_at_work += 1
        else:
            self._failures += 1

    def _has_failed_too_often(self) -> bool:
        limits = self._limits
        return self._failures > limits.max_failures or self._failures_at_work > limits.max_failures_at_work

    def _had_begun_requests(self) -> bool:
        with contextlib.suppress(OSError):
            return os.path.getsize(started_path(self._run_dir, self.epoch)) > 0
        return False

    def _was_useful(self, outputs_before: int) -> bool:
        if self._ready_s is None:
            return False
        lived_s = asyncio.get_running_loop().time() - self._ready_s
        return self._heard.outputs_heard > outputs_before or lived_s >= self._limits.healthy_after_s

    async def _live_through_one_engine(self) -> tuple[str, bool]:
        """From start to end of one process. Returns why it ended and whether the next would end in the same way."""
        self.epoch += 1
        self._ready_s = None
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in the terminal is for the server, which lets streams end first
            )
        except OSError as error:
            return f"it could not be started: {error}", False
        assert process.stdin is not None and process.stdout is not None
        launch = Launch(self._config, self._run_dir, self.epoch, os.getpid())
        with contextlib.suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(launch) + b"\n")
            await process.stdin.drain()
        last_words = asyncio.ensure_future(process.stdout.read(65536))
        try:
            silence = await self._watch(process)
            words = _parse(await last_words)
        finally:
            last_words.cancel()
            process.stdin.close()
        if silence:
            return silence, False
        if words is not None:
            return words.message, words.permanent
        return _describe_exit(process.returncode), False

    async def _watch(self, process: asyncio.subprocess.Process) -> str:
        """Until the process has ended; kills it when it is silent for too long, and says so.

        Silence is counted in ticks of this loop, so that a supervisor that was itself stopped blames nobody.
        """
        limits = self._limits
        ended = asyncio.ensure_future(process.wait())
        self._silence = silence = Silence(process.pid, self._heard.messages_heard)
        while True:
            done, _ = await asyncio.wait((ended,), timeout=limits.tick_s)
            if done:
                return ""
            silence.tick(self._heard.messages_heard, limits.tick_s)
            if silence.seconds > self._patience_s(silence):
                process.kill()
                await ended
                return f"it gave no sign of life for {silence.seconds:.0f} s and was killed"

    def _patience_s(self, silence: Silence) -> float:
        limits = self._limits
        if not silence.broken_before:
            return limits.first_word_timeout_s
        if not self._device.startswith("cpu"):
            return limits.hang_timeout_s
        return limits.idle_timeout_s if silence.idle else limits.hang_timeout_cpu_s

    @property
    def stalled_s(self) -> float:
        """For how long the engine has been silent, once that is a third of what is tolerated; else 0."""
        silence = self._silence
        if silence is None or silence.seconds < self._patience_s(silence) / 3:
            return 0.0
        return silence.seconds

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _change(self, state: SupervisorState) -> None:
        if self.state != state and self.state != "stopped":
            self.state = state
            self._on_state(state)


def _parse(output: bytes) -> LastWords | None:
    try:
        return msgspec.json.decode(output.strip(), type=LastWords)
    except msgspec.DecodeError:
        return None


def _describe_exit(status: int | None) -> str:
    if status is not None and status < 0:
        return f"killed by signal {-status}"
    return f"exit status {status}"
