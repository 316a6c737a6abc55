"""The wall clock may be set while the server runs: nothing that waits looks at it (row G24)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest

from adapters.backend_options import BackendLimits
from tests.support.fake_backend import Script as FakeScript
from tests.support.fault_backend import ask, fault_backend, read
from tests.support.fault_runner import Script, expected_text
from tests.support.live_server import live_server

ROOT = Path(__file__).parents[2]
WALL_CLOCK = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|today|utcnow)\(|\bfrom time import\b.*\btime\b")
SHOWN_ONLY = re.compile(r"(created=|_created = |reply_id, )int\(time\.time\(\)\)|strftime\(")
"""Dates that clients are shown; nothing is measured with them."""
STEPS_S = (3600.0, -7200.0, 10.0**9)


def test_the_wall_clock_is_only_shown() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("oai_server", "adapters", "engine")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if WALL_CLOCK.search(line) and not SHOWN_ONLY.search(line)
    ]
    assert found == []


async def test_g24_deadlines_do_not_move_with_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = BackendLimits(max_deadline_s=300, max_queue_wait_s=300, max_unread_s=300)
    real_time = time.time
    async with fault_backend(tmp_path, Script(step_s=0.005), limits=limits) as backend:
        replies = [asyncio.create_task(read(backend, ask(f"clock {i}", 150, seed=i))) for i in range(8)]
        for step_s in STEPS_S:
            await asyncio.sleep(0.2)
            monkeypatch.setattr(time, "time", lambda step_s=step_s: real_time() + step_s)
        assert await asyncio.gather(*replies) == [expected_text(f"clock {i}", i, 150) for i in range(8)]
        assert backend.counters().finished_by_reason == {"length": 8}


def test_g24_http_timeouts_do_not_move_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    real_time = time.time
    with live_server(FakeScript(delay_s=0.02), request_timeout=300, body_timeout=300, header_timeout=300) as server:
        body = {"prompt": "a b c", "max_tokens": 60, "stream": True}
        with server.client.stream("POST", "/v1/completions", json=body) as reply:
            events = []
            for number, line in enumerate(line for line in reply.iter_lines() if line.startswith("data: {")):
                if number % 10 == 0:
                    step_s = STEPS_S[number // 10 % len(STEPS_S)]
                    monkeypatch.setattr(time, "time", lambda step_s=step_s: real_time() + step_s)
                events.append(json.loads(line[6:]))
        assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == "a b c" * 20
        assert len({event["created"] for event in events}) == 1
        monkeypatch.undo()
        server.check_alive()
