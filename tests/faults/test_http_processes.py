"""The whole tree over HTTP: parent, HTTP workers, engine. Any of them is killed; leftovers are counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.fault_backend import until
from tests.support.fault_runner import Script, expected_text
from tests.support.fault_tree import Server, serving


async def stream_text(
    client: httpx.AsyncClient, url: str, prompt: str, seed: int, max_tokens: int, begun: list[int] | None = None
) -> str:
    """All text of one streamed completion; an error event raises. With its first text it joins `begun`."""
    body = {"model": "model", "prompt": prompt, "seed": seed, "max_tokens": max_tokens, "stream": True}
    text = ""
    async with client.stream("POST", f"{url}/v1/completions", json=body) as reply:
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            if begun is not None and not text:
                begun.append(seed)
            text += "".join(choice["text"] for choice in event["choices"])
    return text


def client() -> httpx.AsyncClient:
    """Loads no certificates: that takes longer than most requests."""
    return httpx.AsyncClient(verify=False, timeout=60, limits=httpx.Limits(max_connections=None))


def gauge(url: str, name: str) -> float:
    """One number of /metrics."""
    page = httpx.get(f"{url}/metrics", timeout=60, verify=False).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


async def streams(url: str, count: int, max_tokens: int, begun: list[int] | None = None) -> list[str | BaseException]:
    async with client() as http:
        calls = (stream_text(http, url, f"stream {i}", i, max_tokens, begun) for i in range(count))
        return await asyncio.gather(*calls, return_exceptions=True)


def whole(count: int, max_tokens: int) -> list[str]:
    return [expected_text(f"stream {i}", i, max_tokens) for i in range(count)]


async def test_sixty_four_http_streams_survive_kill_9_of_the_engine(tmp_path: Path) -> None:
    with serving(tmp_path, Script(step_s=0.01)) as server:
        begun: list[int] = []
        replies = asyncio.create_task(streams(server.url, 64, 100, begun))
        await until(lambda: len(begun) >= 16)
        os.kill(server.engine_pid(), signal.SIGKILL)
        assert await replies == whole(64, 100)


async def test_workers_share_one_engine_and_one_of_them_may_die(tmp_path: Path) -> None:
    with serving(tmp_path, Script(step_s=0.01), "--api-workers", "2") as server:
        commands = server.descendants()
        workers = [pid for pid, command in commands.items() if "spawn_main" in command]
        assert len(workers) == 2
        assert sum("engine.process.server" in command for command in commands.values()) == 1
        assert await streams(server.url, 16, 20) == whole(16, 20)
        begun: list[int] = []
        replies = asyncio.create_task(streams(server.url, 32, 200, begun))
        await until(lambda: len(begun) >= 32)
        os.kill(workers[0], signal.SIGKILL)
        os.kill(server.engine_pid(), signal.SIGKILL)
        results = await replies
        good = [text == right for text, right in zip(results, whole(32, 200), strict=True)]
        cut = [isinstance(text, Exception) for text in results]
        assert [a or b for a, b in zip(good, cut, strict=True)] == [True] * 32
        server.wait_ready()
        await asyncio.sleep(0.5)
        assert await streams(server.url, 8, 20) == whole(8, 20)
        await until(lambda: gauge(server.url, "oai_server:kv_blocks_used") == 0)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_queue_holds_what_the_setting_says_however_it_is_spread(tmp_path: Path, workers: str) -> None:
    flags = ("--api-workers", workers, "--max-num-seqs", "4", "--max-num-queued-reqs", "4")
    body = {"model": "model", "prompt": "one of", "max_tokens": 1900}
    with serving(tmp_path, Script(step_s=0.01, max_num_seqs=4), *flags) as server:
        async with client() as http:  # requests at one time have connections of their own: they meet any process

            async def ask(**more: int) -> int:
                return (await http.post(f"{server.url}/v1/completions", json=body | more)).status_code

            async def let_in(crowd: list[asyncio.Task[int]], count: int) -> None:
                """So many of the crowd, and the others not. Those leave."""
                await until(lambda: sum(task.done() for task in crowd) >= len(crowd) - count)
                await asyncio.sleep(0.2)
                assert [task.result() for task in crowd if task.done()] == [429] * (len(crowd) - count)
                for task in crowd:
                    task.cancel()
                await asyncio.wait(crowd)
                while (await http.get(f"{server.url}/load")).json()["server_load"]:
                    await asyncio.sleep(0.05)

            assert await ask(n=9) == 429
            assert await ask(n=8, max_tokens=2) == 200
            whole = [asyncio.create_task(ask(n=8))]
            await until(lambda: gauge(server.url, "vllm:num_requests_running") == 4)
            await let_in(whole + [asyncio.create_task(ask()) for _ in range(12)], 1)
            await let_in([asyncio.create_task(ask()) for _ in range(40)], 8)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_requests_that_kill_the_engine_are_named_and_cost_no_neighbour(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, Script(step_s=0.01), "--api-workers", workers) as server:
        begun: list[int] = []
        replies = asyncio.create_task(streams(server.url, 12, 150, begun))
        await until(lambda: len(begun) >= 12)
        async with client() as http:
            bodies = [{"model": "model", "prompt": f"KILL@{at}", "max_tokens": 20} for at in (0, 0, 2)]
            refusals = await asyncio.gather(
                *(http.post(f"{server.url}/v1/completions", json=body) for body in bodies)
            )
        assert [reply.status_code for reply in refusals] == [500] * 3
        for reply in refusals:
            assert reply.headers["x-request-id"] in reply.json()["error"]["message"]
        assert await replies == whole(12, 150)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_lets_streams_end_and_leaves_nothing(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, Script(step_s=0.01), "--api-workers", workers) as server:
        pids = list(server.descendants())
        begun: list[int] = []
        replies = asyncio.create_task(streams(server.url, 8, 200, begun))
        await until(lambda: len(begun) >= 8)
        server.process.send_signal(signal.SIGTERM)
        assert await replies == whole(8, 200)
        assert await asyncio.to_thread(server.process.wait, 60) in (0, -signal.SIGTERM)
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        assert list(tmp_path.glob("oai-server-*")) == []


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_kill_9_of_the_server_leaves_no_process(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, Script(step_s=0.01), "--api-workers", workers) as server:
        pids = list(server.descendants())
        server.process.kill()
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        assert [folder.name for folder in tmp_path.glob("oai-server-*") if "metrics" not in folder.name] == []


async def test_health_answers_while_the_engine_loads(tmp_path: Path) -> None:
    server = Server(tmp_path, Script(load_s=3))
    try:
        seen: set[int] = set()
        async with client() as http:
            while 200 not in seen:
                with contextlib.suppress(httpx.ConnectError):
                    reply = await http.get(f"{server.url}/health")
                    seen.add(reply.status_code)
                    body = {"model": "model", "prompt": "early"}
                    refused = await http.post(f"{server.url}/v1/completions", json=body)
                    assert refused.status_code in (503, 200)
                    if refused.status_code == 503:
                        assert int(refused.headers["retry-after"]) >= 1
                await asyncio.sleep(0.05)
        assert seen == {503, 200}
    finally:
        server.close()
