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
    """Requests for some seconds: how many were answered in that time, and how long /health took."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.server = server
        self.seconds = seconds
        self.whole = self.refused = 0
        self.health_s: list[float] = []
        self._end_s = time.monotonic() + seconds

    async def ask(self, http: httpx.AsyncClient, number: int) -> None:
        body = {"prompt": f"stream {number}", "seed": number, "max_tokens": TOKENS}
        reply = await http.post(f"{self.server.url}/v1/completions", json=body)
        if reply.status_code == 429:
            assert int(reply.headers["retry-after"]) >= 1
            self.refused += 1
        else:
            assert reply.json()["choices"][0]["text"] == expected_text(f"stream {number}", number, TOKENS)
            self.whole += time.monotonic() < self._end_s

    async def as_many_as_fit(self) -> float:
        """Clients that ask again and again, a few more than run at once; whole replies a second."""

        async def one(http: httpx.AsyncClient, number: int) -> None:
            while time.monotonic() < self._end_s:
                await self.ask(http, number)

        async with client() as http:
            await asyncio.gather(*(one(http, number) for number in range(SEATS + 8)))
        return self.whole / self.seconds

    async def arriving(self, rate: float) -> float:
        """Clients that come `rate` times a second, whether others are answered or not; whole replies a second."""
        async with client() as http, asyncio.TaskGroup() as clients:
            begin_s, number = time.monotonic(), 0
            probing = clients.create_task(self._probe())
            while time.monotonic() < self._end_s:
                clients.create_task(self.ask(http, number))
                number += 1
                await asyncio.sleep(max(0.0, begin_s + number / rate - time.monotonic()))
            await probing
        return self.whole / self.seconds

    async def _probe(self) -> None:
        async with client() as http:
            while time.monotonic() < self._end_s:
                asked_s = time.monotonic()
                assert (await http.get(f"{self.server.url}/health")).status_code == 200
                self.health_s.append(time.monotonic() - asked_s)
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_g07_ten_times_the_load(tmp_path: Path) -> None:
    seconds = float(os.environ.get("OVERLOAD_S", "60"))
    flags = ("--max-num-seqs", str(SEATS), "--max-num-queued-reqs", "32", "--access-log", "false")
    with serving(tmp_path, Script(step_s=0.1, max_num_seqs=SEATS), *flags) as server:
        capacity = await Load(server, seconds / 6).as_many_as_fit()
        before = server.memory_bytes()
        overload = Load(server, seconds)
        goodput = await overload.arriving(10 * capacity)
        assert overload.refused > 5 * overload.whole
        assert goodput >= 0.9 * capacity, (goodput, capacity)
        assert sorted(overload.health_s)[int(len(overload.health_s) * 0.99)] < 1
        after = server.memory_bytes()
        assert all(after[name] < before[name] * 1.05 + (16 << 20) for name in before), (before, after)
        await check_idle(server)
