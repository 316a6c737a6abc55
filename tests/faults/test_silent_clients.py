"""Half-open connections: clients that neither read nor leave, over HTTP and a real engine (row G04, slow readers)."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.faults.test_http_processes import client, streams, whole
from tests.support.fault_backend import until
from tests.support.fault_runner import Script
from tests.support.fault_tree import serving
from tests.support.silent_clients import post_bytes, stop_reading, vanish

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds that are Linux socket options")

ENDLESS = {"model": "model", "prompt": "endless", "max_tokens": 1900, "n": 8}
"""Runs for at least 19 s at 10 ms a step, and writes more than all buffers on the way hold."""


def gauge(url: str, name: str) -> float:
    """One number of /metrics."""
    page = httpx.get(f"{url}/metrics", timeout=5).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


@pytest.mark.parametrize("fall_silent", [stop_reading, vanish])
async def test_g04_a_client_that_falls_silent_is_cut_off(tmp_path: Path, fall_silent: Callable[..., object]) -> None:
    flags = ("--write-timeout", "0.5", "--send-buffer-kib", "16", "--access-log", "false")
    with serving(tmp_path, Script(step_s=0.01), *flags) as server:
        others = asyncio.create_task(streams(server.url, 4, 200))
        request = post_bytes("/v1/completions", {**ENDLESS, "stream": True})
        silent = [await asyncio.to_thread(fall_silent, server.url, request) for _ in range(3)]
        began_s = time.monotonic()
        await until(lambda: gauge(server.url, "oai_server:kv_blocks_used") > 0)
        assert await others == whole(4, 200)
        slowest_s = 0.0
        async with client() as http:
            while gauge(server.url, "oai_server:kv_blocks_used") or gauge(server.url, "vllm:num_requests_running"):
                assert time.monotonic() - began_s < 12, "silent clients still hold blocks"
                asked_s = time.monotonic()
                assert (await http.get(f"{server.url}/health")).status_code == 200
                slowest_s = max(slowest_s, time.monotonic() - asked_s)
                await asyncio.sleep(0.1)
        assert slowest_s < 1
        assert await streams(server.url, 4, 20) == whole(4, 20)
        assert len(silent) == 3


@pytest.mark.slow
async def test_g04_a_vanished_client_of_a_whole_answer_is_noticed_by_probes(tmp_path: Path) -> None:
    """Nothing is sent to it before the end; TCP's keep-alive probes find out within a minute."""
    with serving(tmp_path, Script(step_s=0.1), "--write-timeout", "5") as server:
        request = post_bytes("/v1/completions", {**ENDLESS, "n": 1})
        silent = await asyncio.to_thread(vanish, server.url, request, after_first_bytes=False)
        await until(lambda: gauge(server.url, "oai_server:kv_blocks_used") > 0)
        await until(lambda: gauge(server.url, "oai_server:kv_blocks_used") == 0, 70)
        assert await streams(server.url, 4, 20) == whole(4, 20)
        silent.close()
