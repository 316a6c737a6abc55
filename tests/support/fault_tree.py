"""A server's whole process tree over `fault_runner`, and what of it can be seen from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.support.fault_checkpoint import write_fault_checkpoint
from tests.support.fault_runner import Script
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


class Server:
    def __init__(self, folder: Path, script: Script, *flags: str, stderr: int | None = None) -> None:
        """`stderr`: a descriptor that gets the log instead of the folder's file `log`."""
        model = write_fault_checkpoint(folder / "model", script)
        self.folder = folder
        self.flags = flags
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_server", "--model", str(model), "--port", "0", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self.log if stderr is None else stderr,
            text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def wait_ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Each look is a new connection; with several HTTP processes it meets any of them."""
        deadline_s, in_a_row = time.monotonic() + timeout_s, 0
        while time.monotonic() < deadline_s:
            with contextlib.suppress(httpx.HTTPError):
                ready = httpx.get(f"{self.url}/health", timeout=PATIENCE_S, verify=False).status_code == 200
                in_a_row = in_a_row + 1 if ready else 0
                if in_a_row >= (12 if "--api-workers" in self.flags else 1):
                    return
                if ready:
                    continue
            time.sleep(0.05)
        raise AssertionError("not ready: " + (self.folder / "log").read_text()[-3000:])

    def descendants(self) -> dict[int, str]:
        """Process ids below the server's, with their command lines."""
        return descendants(self.process.pid)

    def engine_pid(self) -> int:
        return next(pid for pid, command in self.descendants().items() if "engine.process.server" in command)

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory of the server's own process and of the engine."""
        pids = {"server": self.process.pid, "engine": self.engine_pid()}
        return {name: resident_bytes(pid) for name, pid in pids.items()}

    def cpu_s(self) -> float:
        """Processor time that the server's own process and the engine have used."""
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in (self.process.pid, self.engine_pid())]
        ticks = sum(int(ticks) for stat in stats for ticks in stat.rpartition(")")[2].split()[11:13])
        return ticks / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def close(self) -> None:
        tree = [self.process.pid, *self.descendants()]
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()
        self.log.close()


@contextlib.contextmanager
def serving(folder: Path, script: Script, *flags: str) -> Iterator[Server]:
    server = Server(folder, script, *flags)
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()


def descendants(root: int) -> dict[int, str]:
    """Process ids below one, with their command lines. Some may end while they are listed."""
    found: dict[int, str] = {}
    level = children(root)
    while level:
        pid = level.pop()
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            level += children(pid)
    return found


def children(pid: int) -> list[int]:
    """Process ids right below one; none when it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
