"""A runner that notes which requests it has begun to compute, on disk, so that a dead engine can be questioned.

After a crash only the requests that were in a forward pass are suspects; those that were still waiting are not.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from engine.errors import DeviceLostError
from engine.process.messages import started_path
from engine.request import EngineRequest
from engine.runner.batch import ModelRunner, PendingStep, StepBatch, StepResult

logger = logging.getLogger(__name__)

REWRITE_BYTES = 1 << 20
_DEVICE_LOST_MARKS = (
    "cuda error",
    "device-side assert",
    "illegal memory access",
    "cublas_status",
    "unspecified launch",
)


def is_device_lost(error: BaseException) -> bool:
    """Whether the accelerator's context can no longer be used after this exception. Out of memory: it still can."""
    name = type(error).__name__
    if "OutOfMemory" in name:
        return False
    text = str(error).lower()
    return name == "AcceleratorError" or any(mark in text for mark in _DEVICE_LOST_MARKS)


@contextlib.contextmanager
def telling_lost_devices() -> Iterator[None]:
    """A DeviceLostError for whatever says that the device is of no more use."""
    try:
        yield
    except Exception as error:
        if is_device_lost(error):
            raise DeviceLostError(f"the device failed: {error}") from error
        raise


class StartRecorder:
    """The set of requests that are being computed, mirrored in `<run_dir>/started-<epoch>`, one id a line."""

    def __init__(self, run_dir: str, epoch: int) -> None:
        for old in range(max(epoch - 8, 0), epoch - 1):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(started_path(run_dir, old))
        self._fd = os.open(started_path(run_dir, epoch), os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
        self._live: set[str] = set()
        self._suspects: set[str] = set()
        self._fresh: list[str] = []
        self._written = 0

    def note(self, batch: StepBatch) -> None:
        """Called before a forward pass."""
        live = self._live
        fresh = [i for row in batch.rows if (i := row.sequence.request.request_id) not in live]
        if fresh:
            self._live.update(fresh)
            self._suspects.difference_update(fresh)
            self._fresh += fresh
            self._write(fresh)

    def suspect(self, request_id: str) -> None:
        """It may bring the process down before its first step: until it is started or discarded."""
        self._suspects.add(request_id)
        self._write([request_id])

    def take_fresh(self) -> tuple[str, ...]:
        """Requests that have started since the last call."""
        fresh, self._fresh = tuple(self._fresh), []
        return fresh

    def discard(self, request_id: str) -> None:
        self._live.discard(request_id)
        self._suspects.discard(request_id)

    def _write(self, request_ids: list[str]) -> None:
        data = "".join(f"{request_id}\n" for request_id in request_ids).encode()
        try:
            self._written += os.write(self._fd, data)
            if self._written > REWRITE_BYTES:
                os.ftruncate(self._fd, 0)
                self._written = os.write(self._fd, "".join(f"{i}\n" for i in self._live | self._suspects).encode())
        except OSError as error:  # a full disk costs the attribution of a crash, not the service
            logger.warning("cannot note started requests: %s", error)


class RecordedRunner:
    """Passes everything on to the real runner; notes starts, and tells a lost device from a failed step."""

    def __init__(self, runner: ModelRunner, recorder: StartRecorder) -> None:
        self._runner = runner
        self._recorder = recorder
        self.pipelined = runner.pipelined
        self.block_size = runner.block_size
        self.num_blocks = runner.num_blocks
        self.max_model_len = runner.max_model_len
        self.step_sizes = runner.step_sizes

    def launch(self, batch: StepBatch) -> PendingStep:
        self._recorder.note(batch)
        with telling_lost_devices():
            return _WatchedStep(self._runner.launch(batch))

    def forget(self, slot: int) -> None:
        self._runner.forget(slot)

    def prepare(self, request: EngineRequest) -> Future[Any] | None:
        return self._runner.prepare(request)

    def settle(self) -> None:
        self._runner.settle()

    def prepare_more(self) -> bool:
        return self._runner.prepare_more()

    def warm_up(self) -> None:
        self._runner.warm_up()

    def close(self) -> None:
        self._runner.close()


class _WatchedStep:
    __slots__ = ("_step",)

    def __init__(self, step: PendingStep) -> None:
        self._step = step

    def finish_launch(self) -> None:
        with telling_lost_devices():
            self._step.finish_launch()

    def result(self) -> StepResult:
        with telling_lost_devices():
            return self._step.result()
