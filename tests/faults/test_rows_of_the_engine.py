"""Rows G of the fault table over HTTP and a real engine process whose tokens are computable: what breaks in a step,
what leaves in each phase, too little memory, an engine that stands still. A control stream runs beside each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.test_http_processes import client, gauge, streams, whole
from tests.support.fault_backend import until
from tests.support.fault_demo import check_envelope, check_refused
from tests.support.fault_runner import Script, expected_text, strange_byte
from tests.support.fault_tree import Server, serving
from tests.support.silent_clients import post_bytes

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for faults that it lives through."""
    with serving(tmp_path_factory.mktemp("rows"), Script(step_s=0.01, max_num_seqs=64)) as server:
        yield server


async def check_idle(server: Server) -> None:
    """INV: nothing runs or waits, no block is in use, and what comes next is right."""
    for name in ("oai_server:kv_blocks_used", "vllm:num_requests_running", "vllm:num_requests_waiting"):
        await until(lambda name=name: gauge(server.url, name) == 0)  # type: ignore[misc]
    assert httpx.get(f"{server.url}/health", verify=False).status_code == 200
    assert await streams(server.url, 4, 20) == whole(4, 20)


def ask(server: Server, prompt: str, **fields: Any) -> httpx.Response:
    body = {"prompt": prompt, "max_tokens": 40, **fields}
    return httpx.post(server.url + PATH, json=body, timeout=60, verify=False)


async def beside(server: Server, prompt: str, **fields: Any) -> httpx.Response:
    """A request while control streams run that it may not touch."""
    others = asyncio.create_task(streams(server.url, 4, 60))
    reply = await asyncio.to_thread(ask, server, prompt, **fields)
    assert await others == whole(4, 60)
    await check_idle(server)
    return reply


@pytest.mark.parametrize(("fault", "stream"), [("NAN@0", False), ("NAN@5", True)])
async def test_g17_no_numbers_end_one_request(shared: Server, fault: str, stream: bool) -> None:
    check_failed(await beside(shared, fault, stream=stream), stream)


@pytest.mark.parametrize(
    ("fault", "stream"), [("RAISE@0", True), ("RAISE@5", False), ("OOM@0", False), ("OOM@5", True)]
)
async def test_g15_g16_a_failing_step_costs_what_is_in_it(shared: Server, fault: str, stream: bool) -> None:
    pid = shared.engine_pid()
    check_failed(await asyncio.to_thread(ask, shared, fault, stream=stream), stream)
    await check_idle(shared)
    assert shared.engine_pid() == pid


def check_failed(reply: httpx.Response, stream: bool) -> None:
    if stream:
        assert reply.status_code == 200 and reply.text.endswith("data: [DONE]\n\n")
        event = next(line for line in reply.text.splitlines() if line.startswith('data: {"error"'))
        error = json.loads(event[6:])["error"]
    else:
        assert reply.status_code == 500 and reply.headers["x-should-retry"] == "false"
        error = check_envelope(reply)
    assert error["type"] == "server_error"
    assert "planted" not in error["message"] and "CUDA" not in error["message"]


@pytest.mark.parametrize("at", [0, 7])
async def test_g18_bytes_that_are_no_text(shared: Server, at: int) -> None:
    """Stream and whole answer say the same, each broken piece as U+FFFD, nothing lost and nothing left over."""
    prompt = f"BYTES@{at}"
    data = prompt.encode()
    right = expected_text(prompt, 5, at or 1).encode()[:at]
    tail = bytes(strange_byte(5, position) for position in range(len(data) + at, len(data) + 40))
    reply = await beside(shared, prompt, seed=5)
    text = reply.json()["choices"][0]["text"]
    assert (right + tail).decode(errors="replace").startswith(text) and len(text) > 20
    streamed = await asyncio.to_thread(ask, shared, prompt, seed=5, stream=True)
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == text


@pytest.mark.parametrize("stream", [False, True])
async def test_g18_an_id_that_does_not_exist(shared: Server, stream: bool) -> None:
    reply = await beside(shared, "WILD@3", seed=5, stream=stream, logprobs=None)
    assert reply.status_code in (200, 500) and "Traceback" not in reply.text


@pytest.mark.parametrize(
    ("phase", "stream"),
    [("queued", False), ("prefilling", True), ("prefilling", False), ("running", False), ("n of them", True)],
)
async def test_g03_who_leaves_is_gone_in_every_phase(shared: Server, phase: str, stream: bool) -> None:
    control = asyncio.create_task(streams(shared.url, 2, 100))
    prompt = "x" * 1900 if phase == "prefilling" else "leaver"  # chunks of 512 and less beside the others
    body = {"prompt": prompt, "max_tokens": 100, "n": 8 if phase == "n of them" else 1, "stream": stream}
    crowd = 90 if phase == "queued" else 3  # more than run at once
    host, port = httpx.URL(shared.url).host, httpx.URL(shared.url).port
    leavers = [socket.create_connection((host, port or 0)) for _ in range(crowd)]
    for leaver in leavers:
        leaver.sendall(post_bytes(PATH, body))
    await asyncio.sleep({"queued": 0.05, "prefilling": 0.015}.get(phase, 0.2))
    for leaver in leavers:
        leaver.close()
    await until(lambda: gauge(shared.url, "vllm:num_requests_running") <= 2)
    assert await control == whole(2, 100)
    await check_idle(shared)


async def test_g06_ten_times_what_fits(tmp_path: Path) -> None:
    """Everyone is answered rightly or refused; nobody hangs."""
    script = Script(step_s=0.01, max_num_seqs=8)
    with serving(tmp_path, script, "--max-num-seqs", "8", "--max-num-queued-reqs", "16") as server:

        async def one(http: httpx.AsyncClient, i: int) -> bool:
            body = {"prompt": f"stream {i}", "seed": i, "max_tokens": 20}
            reply = await http.post(server.url + PATH, json=body)
            if reply.status_code == 429:
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.json()["error"]["type"] == "rate_limit_error"
                return False
            assert reply.json()["choices"][0]["text"] == expected_text(f"stream {i}", i, 20)
            return True

        async with client() as http:
            answered = await asyncio.gather(*(one(http, i) for i in range(160)))
        assert 24 <= sum(answered) < 160
        await check_idle(server)


async def test_g08_many_times_the_memory(tmp_path: Path) -> None:
    """24 requests that need 24 times 14 blocks, of which there are 48: some are preempted, all end rightly."""
    script = Script(step_s=0.001, num_blocks=49, max_num_seqs=64)
    with serving(tmp_path, script, "--enable-prefix-caching", "false") as server:
        assert await streams(server.url, 24, 200) == whole(24, 200)
        said = check_refused(await asyncio.to_thread(ask, server, "x" * 800), "prompt", "context_length_exceeded")
        assert "token" in said
        await check_idle(server)


async def test_g13_a_stopped_engine_shows_in_health_and_streams_go_on(tmp_path: Path) -> None:
    with serving(tmp_path, Script(step_s=0.01, silence_s=2)) as server:
        begun: list[int] = []
        replies = asyncio.create_task(streams(server.url, 8, 150, begun))
        await until(lambda: len(begun) == 8)
        stopped = server.engine_pid()
        os.kill(stopped, signal.SIGSTOP)
        async with client() as http:
            for awaited in (503, 200):
                status = 0
                while status != awaited:
                    status = (await http.get(f"{server.url}/health")).status_code
                    await asyncio.sleep(0.05)
        assert not Path(f"/proc/{stopped}").exists()
        assert await replies == whole(8, 150)
        await check_idle(server)


async def test_a_thousand_clients_leave_in_mid_stream(tmp_path: Path) -> None:
    """The disconnect storm: 1 000 streams run, all connections close at once, and soon no block is in use."""
    flags = ("--max-num-queued-reqs", "4000", "--access-log", "false")
    with serving(tmp_path, Script(step_s=0.02, max_num_seqs=1000), "--max-num-seqs", "1000", *flags) as server:
        port = httpx.URL(server.url).port or 0
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]
        for i, (_, writer) in enumerate(crowd):
            writer.write(post_bytes(PATH, {"prompt": f"leaver {i}", "max_tokens": 1900, "stream": True}))
        for reader, _ in crowd:
            assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 200")
        for _, writer in crowd:
            writer.transport.abort()
        left_s, worked_s = time.monotonic(), server.cpu_s()
        await until(lambda: gauge(server.url, "oai_server:kv_blocks_used") == 0)
        took_s, worked_s = time.monotonic() - left_s, server.cpu_s() - worked_s
        assert min(took_s, worked_s) < 10  # half a second where nobody else computes; the streams would take 38
        await check_idle(server)
