"""Minutes of mixed abuse over HTTP: leavers, bad requests, dying engines. Memory and open files stay flat."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.faults.test_http_processes import client, stream_text
from tests.support.fault_runner import Script, expected_text
from tests.support.fault_tree import Server, serving

MINUTE = 60.0
BAD_BODIES: tuple[object, ...] = (
    {},
    [],
    {"prompt": []},
    {"prompt": "x", "n": -1},
    {"prompt": "x", "max_tokens": 10**12},
    {"prompt": "x" * 100_000},
    {"prompt": [10**9]},
    {"prompt": "x", "temperature": 9},
    {"prompt": "x", "stop": ["a"] * 50},
    {"prompt": "x", "logit_bias": {"99999": 1}},
    {"prompt": "x", "model": "../../etc/passwd"},
)


class Abuse:
    def __init__(self, server: Server, http: httpx.AsyncClient, end_s: float) -> None:
        self.server = server
        self.http = http
        self.end_s = end_s
        self.done = {"whole": 0, "left": 0, "bad": 0, "killed": 0, "busy": 0}

    async def ask_rightly(self, rng: random.Random) -> None:
        number, length = rng.randrange(10**6), rng.randint(1, 80)
        prompt = f"stream {number}"
        text = await stream_text(self.http, self.server.url, prompt, number, length)
        assert text == expected_text(prompt, number, length)
        self.done["whole"] += 1

    async def leave(self, rng: random.Random) -> None:
        body = {"prompt": "leaver " + "x" * rng.randrange(500), "max_tokens": 1000, "stream": rng.random() < 0.5}
        timeout = httpx.Timeout(5, read=rng.random() * 0.3 + 0.01)
        url = f"{self.server.url}/v1/completions"
        try:
            async with self.http.stream("POST", url, json=body | {"n": rng.randint(1, 4)}, timeout=timeout) as reply:
                async for _ in reply.aiter_bytes():
                    if rng.random() < 0.2:
                        break
        except httpx.TimeoutException:
            pass
        self.done["left"] += 1

    async def ask_wrongly(self, rng: random.Random) -> None:
        reply = await self.http.post(f"{self.server.url}/v1/completions", json=rng.choice(BAD_BODIES))
        assert 400 <= reply.status_code < 500, reply.text
        assert reply.json()["error"]["message"]
        self.done["bad"] += 1

    async def one_client(self, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < self.end_s:
            act = rng.choice((self.ask_rightly, self.ask_rightly, self.leave, self.ask_wrongly))
            await act(rng)

    async def kill_engines(self) -> None:
        while time.monotonic() < self.end_s - 15:
            await asyncio.sleep(20)
            os.kill(self.server.engine_pid(), signal.SIGKILL)
            self.done["killed"] += 1
            await asyncio.sleep(3)

    async def run(self, clients: int) -> None:
        await asyncio.gather(self.kill_engines(), *(self.one_client(seed) for seed in range(clients)))


@pytest.mark.slow
async def test_g25_soak(tmp_path: Path) -> None:
    seconds = float(os.environ.get("SOAK_S", 10 * MINUTE))
    with serving(tmp_path, Script(silence_s=3, step_s=0.005), "--access-log", "false") as server:
        async with client() as http:
            warm = Abuse(server, http, time.monotonic() + seconds * 0.2)
            await warm.run(24)
            before, files = server.memory_bytes(), server.open_files()
            soak = Abuse(server, http, time.monotonic() + seconds * 0.8)
            await soak.run(24)
        await asyncio.sleep(2)
        after = server.memory_bytes()
        assert soak.done["whole"] > 20
        assert soak.done["killed"] >= 1 or seconds < MINUTE
        assert after["server"] < before["server"] * 1.05 + (8 << 20), f"{before} -> {after} after {soak.done}"
        assert server.open_files() <= files + 4
        page = httpx.get(f"{server.url}/metrics").text
        used = [line.split()[-1] for line in page.splitlines() if line.startswith("oai_server:kv_blocks_used")]
        assert used == ["0.0"]
