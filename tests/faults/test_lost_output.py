"""Log lines that cannot be written: a full disk, or a pipe that nobody reads any more (row G23)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.faults.test_http_processes import client, streams, whole
from tests.support.fault_backend import until
from tests.support.fault_runner import Script
from tests.support.fault_tree import Server


def lost(kind: str) -> int:
    """A descriptor that every write to fails."""
    if kind == "full disk":
        if not Path("/dev/full").exists():
            pytest.skip("this system has no /dev/full")
        return os.open("/dev/full", os.O_WRONLY)
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("kind", ["full disk", "closed pipe"])
async def test_g23_lost_log_lines_stop_nothing(tmp_path: Path, kind: str, workers: str) -> None:
    """The engine dies meanwhile, so that all processes have much to say."""
    descriptor = lost(kind)
    server = Server(
        tmp_path, Script(step_s=0.01), "--api-workers", workers, "--log-level", "debug", stderr=descriptor
    )
    os.close(descriptor)
    assert server.process.stdout is not None
    server.process.stdout.close()
    server.process.stdout = None
    try:
        server.wait_ready()
        begun: list[int] = []
        replies = asyncio.create_task(streams(server.url, 16, 80, begun))
        await until(lambda: len(begun) >= 16)
        os.kill(server.engine_pid(), signal.SIGKILL)
        assert await replies == whole(16, 80)
        async with client() as http:
            wrong = [await http.post(f"{server.url}/v1/completions", json={"prompt": []}) for _ in range(20)]
            assert {reply.status_code for reply in wrong} == {400}
        assert httpx.get(f"{server.url}/health", verify=False).status_code == 200
        assert await streams(server.url, 8, 20) == whole(8, 20)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 60)
        assert list(tmp_path.glob("oai-server-*")) == []
    finally:
        server.close()
