"""Half-open connections: clients that neither read nor leave, over HTTP and a real engine (row G04, slow readers)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.test_http_processes import client, gauge, streams, whole
from tests.support.fault_backend import until
from tests.support.fault_runner import Script
from tests.support.fault_tree import serving
from tests.support.silent_clients import post_bytes, stop_reading, vanish

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds that are Linux socket options")

ENDLESS = {"model": "model", "prompt": "endless", "max_tokens": 1900, "n": 8}
"""Runs for at least 19 s at 10 ms a step, and writes more than all buffers on the way hold."""


def finished(url: str, reason: str) -> float:
    """How many choices have ended for a reason."""
    return gauge(url, f'vllm:request_success_total{{engine="0",finished_reason="{reason}"')


@pytest.mark.parametrize("fall_silent", [stop_reading, vanish])
async def test_g04_a_client_that_falls_silent_is_cut_off(tmp_path: Path, fall_silent: Callable[..., object]) -> None:
    flags = ("--write-timeout", "0.5", "--send-buffer-kib", "16", "--access-log", "false")
    with serving(tmp_path, Script(step_s=0.01), *flags) as server:
        others = asyncio.create_task(streams(server.url, 4, 200))
        request = post_bytes("/v1/completions", {**ENDLESS, "stream": True})
        silent = [await asyncio.to_thread(fall_silent, server.url, request) for _ in range(3)]
        await until(lambda: gauge(server.url, "oai_server:kv_blocks_used") > 0)
        assert await others == whole(4, 200)
        async with client() as http:
            while gauge(server.url, "oai_server:kv_blocks_used") or gauge(server.url, "vllm:num_requests_running"):
                assert (await http.get(f"{server.url}/health")).status_code == 200
                await asyncio.sleep(0.1)
        assert finished(server.url, "length") == 4, "none of the silent ran to its end"
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
