"""Whatever way a process of the tree ends, nothing of it stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fault_checkpoint import write_fault_checkpoint
from tests.support.patience import PATIENCE_S, wait_for

ROOT = Path(__file__).parent.parent.parent
FRONT = """
import asyncio, sys
from adapters.engine_backend import EngineBackend
from engine.config import EngineConfig

async def main(model):
    backend = EngineBackend(EngineConfig(model_path=model), runner="tests.support.fault_runner:build")
    await backend.start()
    while backend.health().state != "ready":
        await asyncio.sleep(0.02)
    print(backend.engine_pid, backend._run_dir, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await backend.stop()

asyncio.run(main(sys.argv[1]))
"""


class Tree:
    """A front in a process of its own, and its engine."""

    def __init__(self, folder: Path) -> None:
        model = write_fault_checkpoint(folder / "model")
        self.front = subprocess.Popen(
            [sys.executable, "-c", FRONT, str(model)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        assert self.front.stdout is not None
        pid, run_dir = self.front.stdout.readline().split()
        self.engine_pid, self.run_dir = int(pid), Path(run_dir)

    def close(self) -> None:
        for pid in (self.front.pid, self.engine_pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.front.communicate()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path)
    yield tree
    tree.close()


def alive(pid: int) -> bool:
    """A zombie that nobody waits for counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_run_directory_is_private(tree: Tree) -> None:
    assert tree.run_dir.stat().st_mode & 0o777 == 0o700
    assert (tree.run_dir / "engine.sock").stat().st_mode & 0o077 == 0


def test_the_engine_ends_when_its_front_is_killed(tree: Tree) -> None:
    tree.front.kill()
    wait_for(lambda: not alive(tree.engine_pid), "it ends")
    assert not tree.run_dir.exists()


def test_an_orderly_stop_leaves_nothing(tree: Tree) -> None:
    assert tree.front.stdin is not None
    tree.front.stdin.write("\n")
    tree.front.stdin.flush()
    assert tree.front.wait(PATIENCE_S) == 0
    assert not alive(tree.engine_pid)
    assert not tree.run_dir.exists()


def test_stray_signals_do_not_end_the_engine(tree: Tree) -> None:
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        os.kill(tree.engine_pid, name)
    time.sleep(0.5)
    assert alive(tree.engine_pid)
    os.kill(tree.engine_pid, signal.SIGTERM)
    wait_for(lambda: not alive(tree.engine_pid), "it ends")
