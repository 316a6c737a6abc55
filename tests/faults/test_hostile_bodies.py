"""Random hostile bodies against a whole server with the bundled model: never a 5xx, and nothing is left behind.

FUZZ_SEEDS="5000:9000" makes the slow test run other seeds; a failure names its seed.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.fault_demo import Demo, check_answered, check_envelope
from tests.support.fuzz_bodies import Case, case

FAST_SEEDS = 400
SLOW_SEEDS = range(FAST_SEEDS, 20_000)
THREADS = 8
BROKEN_TOP_LEVEL = "Expected `object`"


TOOL = {"type": "function", "name": "f", "parameters": {}}
FOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "overflowing penalty": ("/v1/completions", {"prompt": "x", "repetition_penalty": 1e-320}),
    "control token in a form": ("/v1/completions", {"prompt": "x", "guided_regex": "<tool_call>"}),
    "decomposed letters in a form": ("/v1/completions", {"prompt": "x", "guided_regex": "e\u0301" * 9}),
    "huge form": ("/v1/completions", {"prompt": "x", "guided_regex": "(a{1000}){1000}"}),
    "long reason": ("/v1/completions", {"prompt": "x", "guided_json": {"type": "x" * 3000}}),
    "allowed tools": (
        "/v1/responses",
        {"input": "x", "tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": True}},
    ),
}
"""What random bodies have found."""


def send(demo: Demo, seed: int) -> int:
    """One body; raises with its seed when the reply is not what it may be."""
    hostile = case(seed)
    try:
        headers = {"content-type": "application/json"}
        reply = demo.client.post(hostile.path, content=hostile.body, headers=headers)
        check(hostile, reply)
    except Exception as error:
        error.add_note(f"seed {seed}: {hostile.path} {hostile.changed} {hostile.body[:300]!r}")
        raise
    return reply.status_code


def check(hostile: Case, reply: httpx.Response) -> None:
    assert reply.status_code in (200, 400, 404, 413), reply.text[:500]
    if reply.status_code == 200:
        check_answered(reply)
        return
    error = check_envelope(reply)
    assert error["type"] == "invalid_request_error"
    if error["code"] not in ("invalid_json", "request_too_large") and BROKEN_TOP_LEVEL not in error["message"]:
        assert error["param"], error


def test_hostile_bodies(demo: Demo) -> None:
    seen = Counter(send(demo, seed) for seed in range(FAST_SEEDS))
    assert seen[200] > FAST_SEEDS // 10, "too few of these bodies come through to the engine"


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(demo: Demo, name: str) -> None:
    path, body = FOUND[name]
    asked = Case(path, b"", ("x",))
    check(asked, demo.client.post(path, json={**body, "max_tokens": 3, "max_output_tokens": 3}))


@pytest.mark.slow
def test_many_hostile_bodies_at_once(demo: Demo) -> None:
    first, _, end = os.environ.get("FUZZ_SEEDS", "").partition(":")
    seeds = list(range(int(first), int(end)) if end else SLOW_SEEDS)
    random.Random(0).shuffle(seeds)
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(lambda seed: send(demo, seed), seeds):
            pass
