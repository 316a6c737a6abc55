"""Forms that hang hold up neither forms that are known nor the event loop; too many of them are told to come back."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from engine.errors import EngineOverloadedError
from engine.request import GrammarSpec
from oai_server.wire import constraints
from oai_server.wire.completions import CompletionRequest
from oai_server.wire.constraints import requested_grammar
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer


def request(**fields: Any) -> CompletionRequest:
    return msgspec.convert({"prompt": "a", **fields}, CompletionRequest)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = constraints._KnownGrammars()
    monkeypatch.setattr(constraints, "_known", lambda: fresh)


async def test_what_is_known_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def compile_it(name: str, value: Any, timeout_s: float) -> GrammarSpec:
        compiled.append(value)
        return GrammarSpec("regex", str(value), name)

    monkeypatch.setattr(constraints, "_compiled", compile_it)
    first = await requested_grammar(request(guided_regex="a+"), 5.0)
    assert await requested_grammar(request(guided_regex="a+"), 5.0) is first
    assert await requested_grammar(request(regex="a+"), 5.0) is not first  # errors name another field
    assert compiled == ["a+", "a+"]


async def test_too_many_that_hang_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(name: str, value: Any, timeout_s: float) -> GrammarSpec:
        if value.startswith("hang"):
            time.sleep(0.6)
        return GrammarSpec("regex", value, name)

    monkeypatch.setattr(constraints, "_compiled", hang)
    one = ThreadPoolExecutor(1)
    monkeypatch.setattr(constraints, "_threads", lambda: one)
    known = await requested_grammar(request(guided_regex="good"), 0.1)
    hanging = asyncio.create_task(requested_grammar(request(guided_regex="hang 1"), 5.0))
    await asyncio.sleep(0.05)
    assert await requested_grammar(request(guided_regex="good"), 0.1) is known
    monkeypatch.setattr(constraints, "SPARE_S", 0.1)
    with pytest.raises(EngineOverloadedError):
        await requested_grammar(request(guided_regex="new"), 0.1)
    assert await hanging is not None


def test_what_is_known_is_bounded() -> None:
    known = constraints._KnownGrammars()
    for i in range(2 * constraints.MAX_KNOWN):
        known.add(b"%d" % i, GrammarSpec("regex", "x" * 100))
    assert len(known._grammars) == constraints.MAX_KNOWN
    for i in range(10):
        known.add(b"large %d" % i, GrammarSpec("regex", "x" * (constraints.MAX_KNOWN_CHARS // 4)))
    assert len(known._grammars) <= 4 and known._chars <= constraints.MAX_KNOWN_CHARS


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_for_a_full_queue_nothing_is_compiled(server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(constraints, "_compiled", lambda name, value, timeout_s: compiled.append(value))
    server.backend.script = Script(max_live=0)
    body = {"prompt": "a", "messages": [{"role": "user", "content": "x"}], "guided_regex": "[ab]+"}
    reply = server.post(path, body)
    assert reply.status_code == 429 and int(reply.headers["retry-after"]) >= 1
    assert compiled == []
