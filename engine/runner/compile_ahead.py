"""Compiles kernels in processes of their own while the engine imports libraries, reads weights and measures memory.

A start with an empty cache has some sixty kernels to compile, a second of a core each. Threads of one process do not
overlap well, since compilers hold Python's lock for much of that time. These processes fill the compiler's cache on
disk, so that the engine finds there what it needs; should they fail, it compiles for itself. Those kernels that
service can do without come last: the start does not wait for them.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import logging
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from engine.config import EngineConfig

logger = logging.getLogger(__name__)

MAX_WORKERS = 8
"""More spend their time on importing the same libraries."""
SPARE_CORES = 3
"""For the engine's own start, the front and the driver."""
PATIENCE_S = 120.0
"""With what a start waits for."""
LONGEST_S = 600.0
"""Until whoever still compiles is given up: graphs are not captured meanwhile."""
KERNEL_FOLDERS = ("kernels", "runner", "attention")
"""Of the engine: what decides which kernels there are."""
CAPABILITY_ATTRIBUTES = (75, 76)
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


class CompileJob(msgspec.Struct, frozen=True):
    """What every worker is told."""

    config: EngineConfig
    capability: tuple[int, int]
    parent_pid: int


class AheadCompilation:
    """Workers under way, and the file that tells later starts that there is nothing left to do."""

    def __init__(self, workers: list[subprocess.Popen[bytes]], needed: int, mark: Path) -> None:
        """`needed`: the reading end of a pipe into which each worker writes a byte, and which it closes, as soon as
        its part of what a start needs is compiled."""
        self._workers = workers
        self._needed = needed
        self._mark = mark
        self._began_s = time.monotonic()
        self._finished = False

    def wait(self) -> None:
        """Until what a start needs is compiled, or those who should have done it have ended."""
        done, deadline_s = 0, time.monotonic() + PATIENCE_S
        while select.select([self._needed], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            written = os.read(self._needed, len(self._workers))
            if not written:
                return self._tell("kernels of the start", done)
            done += len(written)
        logger.warning("kernels are not compiled after %.0f s: the engine compiles them itself", PATIENCE_S)
        return self.stop()

    def finished(self) -> bool:
        """Whether all have ended, without waiting for it. A failed one is logged and no more: the engine compiles
        what is missing."""
        if not self._finished and time.monotonic() - self._began_s > LONGEST_S:
            logger.warning("kernels are not compiled after %.0f s: the engine compiles them itself", LONGEST_S)
            self.stop()
        if not self._finished and all(worker.poll() is not None for worker in self._workers):
            self._finish()
            failed = [worker for worker in self._workers if worker.returncode]
            if failed:
                logger.warning("%d of %d kernel compilers failed", len(failed), len(self._workers))
            else:
                self._leave_mark()
        return self._finished

    def _finish(self) -> None:
        self._finished = True
        os.close(self._needed)

    def _leave_mark(self) -> None:
        self._tell("all kernels", len(self._workers))
        try:
            self._mark.touch()
        except OSError as error:
            logger.info("%s cannot be written: the next start looks for kernels anew (%s)", self._mark, error)

    def _tell(self, what: str, processes: int) -> None:
        logger.info("%s compiled by %d processes in %.1f s", what, processes, time.monotonic() - self._began_s)

    def stop(self) -> None:
        """End what is still under way."""
        for worker in self._workers:
            worker.kill()
            worker.wait()
        if not self._finished:
            self._finish()


def begin(config: EngineConfig) -> AheadCompilation | None:
    """Start compiling for the GPU that `config` names; None where there is none, or nothing to compile."""
    kind, _, index = config.device.partition(":")
    if kind not in ("auto", "cuda") or config.enforce_eager or not (index or "0").isdecimal():
        return None
    capability = compute_capability(int(index or 0))
    workers = min(MAX_WORKERS, len(os.sched_getaffinity(0)) - SPARE_CORES) if capability else 0
    return compile_for(config, capability, workers) if capability and workers > 0 else None


def compile_for(config: EngineConfig, capability: tuple[int, int], workers: int) -> AheadCompilation | None:
    """Start so many workers, unless kernels for these settings were compiled by an earlier start."""
    mark = cache_folder() / f"compiled-ahead-{_digest(config, capability)}"
    if mark.exists():
        return None
    mark.parent.mkdir(parents=True, exist_ok=True)
    job = CompileJob(config, capability, os.getpid())
    needed, working = os.pipe()
    with tempfile.TemporaryFile() as file, open(working, "wb") as pipe:
        file.write(msgspec.json.encode(job))
        file.flush()
        files = (file.fileno(), pipe.fileno())
        command = [sys.executable, "-m", "engine.runner.compile_worker", *map(str, files)]
        processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=files,
                process_group=0,
            )
            for _ in range(workers)
        ]
    return AheadCompilation(processes, needed, mark)


def cache_folder() -> Path:
    """Where Triton keeps what it has compiled."""
    if folder := os.environ.get("TRITON_CACHE_DIR"):
        return Path(folder)
    return Path(os.environ.get("TRITON_HOME") or Path.home()) / ".triton" / "cache"


def compute_capability(index: int) -> tuple[int, int] | None:
    """Of that CUDA device, asked of the driver: no library is imported and no context begun. None: there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
        return None
    for attribute, number in zip(CAPABILITY_ATTRIBUTES, (major, minor), strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return None
    return major.value, minor.value


def _digest(config: EngineConfig, capability: tuple[int, int]) -> str:
    """Of all that kernels depend on: settings, model, sources, compiler, GPU."""
    engine = Path(__file__).parent.parent
    sources = sorted(path for folder in KERNEL_FOLDERS for path in (engine / folder).glob("*.py"))
    versions = [_version(package) for package in ("torch", "triton", "fa3-fwd", "flash-attn")]
    found = hashlib.sha256(msgspec.json.encode((config, capability, versions)))
    for path in (Path(config.model_path) / "config.json", *sources):
        found.update(path.read_bytes())
    return found.hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
