"""A minute of ten times what the engine can do (row G07): goodput stays, /health stays quick, memory stays."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import httpx
import pytest

from tests.faults.test_http_processes import client
from tests.faults.test_rows_of_the_engine import check_idle
from tests.support.fault_runner import Script, expected_text
from tests.support.fault_tree import Server, serving

SEATS = 16
TOKENS = 20


class Load:
    """Clients that ask again and again; a refused one waits as long as it is told."""

    def __init__(self, server: Server, clients: int, seconds: float) -> None:
        self.server = server
        self.clients = clients
        self.seconds = seconds
        self.whole = self.refused = 0
        self.health_s: list[float] = []

    async def one(self, http: httpx.AsyncClient, number: int, end_s: float) -> None:
        body = {"prompt": f"stream {number}", "seed": number, "max_tokens": TOKENS}
        while time.monotonic() < end_s:
            reply = await http.post(f"{self.server.url}/v1/completions", json=body)
            if reply.status_code == 429:
                self.refused += 1
                await asyncio.sleep(float(reply.headers["retry-after"]))
            else:
                assert reply.json()["choices"][0]["text"] == expected_text(f"stream {number}", number, TOKENS)
                self.whole += 1

    async def probe(self, http: httpx.AsyncClient, end_s: float) -> None:
        while time.monotonic() < end_s:
            asked_s = time.monotonic()
            assert (await http.get(f"{self.server.url}/health")).status_code == 200
            self.health_s.append(time.monotonic() - asked_s)
            await asyncio.sleep(0.1)

    async def run(self) -> float:
        """Whole replies a second."""
        begin_s = time.monotonic()
        end_s = begin_s + self.seconds
        async with client() as http:
            await asyncio.gather(self.probe(http, end_s), *(self.one(http, i, end_s) for i in range(self.clients)))
        return self.whole / (time.monotonic() - begin_s)


@pytest.mark.slow
async def test_g07_ten_times_the_load(tmp_path: Path) -> None:
    seconds = float(os.environ.get("OVERLOAD_S", "60"))
    flags = ("--max-num-seqs", str(SEATS), "--max-num-queued-reqs", "32", "--access-log", "false")
    with serving(tmp_path, Script(step_s=0.02, max_num_seqs=SEATS), *flags) as server:
        capacity = await Load(server, SEATS + 8, seconds / 6).run()
        before = server.memory_bytes()
        overload = Load(server, 10 * SEATS, seconds)
        goodput = await overload.run()
        assert overload.refused > overload.clients
        assert goodput >= 0.9 * capacity, (goodput, capacity)
        assert sorted(overload.health_s)[int(len(overload.health_s) * 0.99)] < 1
        after = server.memory_bytes()
        assert all(after[name] < before[name] * 1.05 + (16 << 20) for name in before), (before, after)
        await check_idle(server)
