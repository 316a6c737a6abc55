"""Streams on real sockets: clients that leave, stop reading or wait; failures after the first byte; keep-alives."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest
from sse_starlette.sse import EventSourceResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adapters.backend import ChoiceDelta
from engine.errors import (
    DeadlineExceededError,
    EngineDeadError,
    EngineOverloadedError,
    EngineUnavailableError,
    RequestFailedError,
)
from engine.request import GrammarSpec
from oai_server.cycle import LeanCycle
from oai_server.errors import ApiError, ClientGoneError
from oai_server.interrupts import ON_LOST, Interruptible, LostConnection
from oai_server.routes.generate import GenerateChunks
from oai_server.wire import constraints
from oai_server.wire.chat_chunks import ChatChunkOptions, ChatChunks
from oai_server.wire.chunks import ChunkTemplate, json_bytes
from oai_server.wire.completion_chunks import CompletionChunkOptions, CompletionChunks
from tests.support.fake_backend import READY, Script
from tests.support.live_server import LiveServer, live_server
from tests.support.patience import wait_for

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def body_of(path: str, **fields: Any) -> dict[str, Any]:
    prompt: dict[str, Any] = (
        {"prompt": "a b c"} if path != CHAT else {"messages": [{"role": "user", "content": "a b"}]}
    )
    return {**prompt, "max_tokens": 1000, **fields}


def request_bytes(path: str, **fields: Any) -> bytes:
    body = json.dumps(body_of(path, **fields)).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def leave(connection: socket.socket, how: str) -> None:
    if how == "RST":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"stream": True}),
        (CHAT, {}),
        (CHAT, {"n": 4}),
        (COMPLETIONS, {"stream": True, "n": 3, "prompt": ["a", "b"]}),
        (COMPLETIONS, {"prompt": ["a", "b"]}),
        ("/generate", {}),
        ("/generate_stream", {}),
    ],
    ids=str,
)
def test_a_client_that_leaves_is_cancelled_at_once(
    server: LiveServer, path: str, fields: dict[str, Any], how: str
) -> None:
    server.backend.script = Script(delay_s=0.02)
    cancelled = server.backend.ended["cancelled"]
    connection = server.raw()
    connection.sendall(request_bytes(path, **fields))
    expected = len(fields["prompt"]) if "prompt" in fields else 1
    wait_for(lambda: len(server.backend.live) == expected, "all generations run")
    leave(connection, how)
    server.wait_idle()
    assert server.backend.ended["cancelled"] - cancelled == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_admission(server: LiveServer, stream: bool) -> None:
    server.backend.script = Script(admission_delay_s=1e6)
    connection = server.raw()
    connection.sendall(request_bytes(COMPLETIONS, stream=stream))
    wait_for(lambda: server.services.live, "it waits for admission")
    connection.close()
    server.wait_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_its_grammar_is_compiled(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """By the time it is admitted its connection is gone, and admission need not wait for anything."""
    begun, gone = threading.Event(), threading.Event()

    def compiled(_name: str, value: Any, _timeout_s: float) -> GrammarSpec:
        begun.set()
        gone.wait(60)
        return GrammarSpec("regex", value)

    monkeypatch.setattr(constraints, "_compiled", compiled)
    open_before = len(server.server.server_state.connections)
    connection = server.raw()
    connection.sendall(request_bytes(COMPLETIONS, stream=stream, guided_regex=f"gone{stream}"))
    begun.wait(60)
    connection.close()
    wait_for(lambda: len(server.server.server_state.connections) <= open_before, "the server has noticed")
    gone.set()
    server.wait_idle()
    assert len(server.services.limiter) == 0


def test_disconnect_storm(server: LiveServer) -> None:
    server.backend.script = Script(delay_s=0.01)
    for _ in range(4):
        connections = [server.raw() for _ in range(100)]
        for i, connection in enumerate(connections):
            connection.sendall(request_bytes(CHAT if i % 2 else COMPLETIONS, stream=i % 3 > 0))
        time.sleep(0.05)
        for i, connection in enumerate(connections):
            leave(connection, "RST" if i % 2 else "FIN")
    server.wait_idle()
    wait_for(lambda: len(server.server.server_state.connections) <= 1, "their connections are gone")
    tasks = asyncio.run_coroutine_threadsafe(_count_tasks(), server.loop).result(5)
    assert tasks < 15


async def _count_tasks() -> int:
    return len(asyncio.all_tasks())


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (EngineDeadError("gone"), "engine_dead", "server_error"),
        (RequestFailedError("Request x was running when the engine died twice"), None, "server_error"),
        (DeadlineExceededError("too late"), "deadline_exceeded", "server_error"),
        (RuntimeError("secret /path/of/host"), None, "server_error"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failure_in_mid_stream(server: LiveServer, error: Exception, code: str | None, kind: str) -> None:
    server.backend.script = Script(fail_after=2, error=error)
    for path in (CHAT, COMPLETIONS, "/generate_stream"):
        reply = server.post(path, body_of(path, stream=True))
        events = [event for event in reply.text.split("\n\n") if event]
        assert reply.status_code == 200 and events[-1] == "data: [DONE]"
        failure = json.loads(events[-2].removeprefix("data: "))["error"]
        assert (failure["code"], failure["type"]) == (code, kind)
        assert "secret" not in reply.text and 'finish_reason":"' not in reply.text
        whole = server.post(path, body_of(path, stream=False)) if path != "/generate_stream" else None
        if whole is not None:
            assert whole.status_code in (500, 503, 504) and whole.json()["error"]["code"] == code
            assert "secret" not in whole.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineOverloadedError("full", 2.3), 429),
        (EngineUnavailableError("starting"), 503),
        (EngineDeadError("gone"), 503),
        (ValueError("bug"), 500),
    ],
    ids=lambda value: str(value),
)
def test_refused_admission_is_a_status_also_for_streams(
    server: LiveServer, error: Exception, status: int, stream: bool
) -> None:
    server.backend.script = Script(admission_error=error)
    reply = server.post(CHAT, body_of(CHAT, stream=stream))
    assert reply.status_code == status
    if status in (429, 503):
        assert int(reply.headers["retry-after"]) >= 1
    assert "bug" not in reply.text


def test_g06_overload_is_refused_fast_and_the_accepted_finish(server: LiveServer) -> None:
    gate = threading.Event()
    server.backend.script = Script(gate=gate, max_live=4)
    statuses: list[int] = []

    def one() -> None:
        statuses.append(server.post(COMPLETIONS, body_of(COMPLETIONS, max_tokens=20)).status_code)

    threads = [threading.Thread(target=one) for _ in range(40)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(statuses) == 36, "those beyond four are refused while the four run")
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 4 + [429] * 36


def test_g21_requests_while_the_engine_loads(server: LiveServer) -> None:
    server.backend.script = Script(health=type(READY)("starting", "weights", 0.25))
    health = server.client.get("/health")
    assert health.status_code == 503
    assert health.json() == {"status": "starting", "phase": "weights", "fraction": 0.25}
    assert server.client.get("/livez").status_code == 200
    assert server.client.get("/readyz").status_code == 503
    reply = server.post(CHAT, body_of(CHAT))
    assert reply.status_code == 503 and int(reply.headers["retry-after"]) in (2, 3)


def test_a_reader_that_is_behind_gets_everything(server: LiveServer) -> None:
    with server.raw() as connection:
        connection.sendall(request_bytes(COMPLETIONS, stream=True, max_tokens=4000))
        time.sleep(0.2)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(1000)
    assert received.count(b'"text":') == 4000 and b"[DONE]" in received


def test_a_reader_that_stops_is_cut_off() -> None:
    with live_server(write_timeout=0.5, send_buffer_kib=16) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request_bytes(COMPLETIONS, stream=True, max_tokens=1 << 12, n=8))
        wait_for(lambda: server.backend.live, "the generation runs")
        server.wait_idle()
        assert server.backend.ended == {"cancelled": 1}, "the generation waited for its reader"
        connection.close()
        server.check_alive()


def test_keep_alive_comments_while_nothing_comes() -> None:
    with live_server(Script(delay_s=0.35), sse_keep_alive_interval=0.1) as server:
        reply = server.post(COMPLETIONS, body_of(COMPLETIONS, stream=True, max_tokens=2))
        assert reply.text.count(": keep-alive\n\n") >= 4
        assert reply.text.startswith(": keep-alive\n\n") and reply.text.endswith("data: [DONE]\n\n")


def test_headers_come_before_the_first_token(server: LiveServer) -> None:
    gate = threading.Event()
    server.backend.script = Script(gate=gate)
    body = body_of(CHAT, stream=True, max_tokens=1)
    with server.client.stream("POST", CHAT, json=body) as reply:
        assert reply.status_code == 200
        gate.set()
        first = next(reply.iter_bytes())
        assert b'"role":"assistant"' in first and b'"content":"user:"' in first, "the role comes with the first token"


def test_a_generation_that_always_has_more_starves_nobody(server: LiveServer) -> None:
    body = body_of(COMPLETIONS, stream=True, max_tokens=1500, n=2)
    threads = [threading.Thread(target=lambda: server.post(COMPLETIONS, body)) for _ in range(4)]
    for thread in threads:
        thread.start()
    answered = 0
    while any(thread.is_alive() for thread in threads):
        answered += server.client.get("/livez").status_code == 200
    assert answered > 10, "between their tokens"


def test_what_we_use_of_the_library_is_there() -> None:
    """Private names of pinned libraries, and uvicorn's protocol makes responses of our class."""
    assert HttpToolsProtocol.on_headers_complete.__globals__["RequestResponseCycle"] is LeanCycle
    assert "RequestResponseCycle" in HttpToolsProtocol.on_headers_complete.__code__.co_names
    assert {"_ping_interval", "raw_headers", "status_code"} <= {
        name for code in _codes(EventSourceResponse) for name in code.co_names
    }
    assert {"write_paused", "disconnected", "chunked_encoding", "transport"} <= {
        *LeanCycle.__mro__[1].__init__.__code__.co_names,
        *LeanCycle.__mro__[1].send.__code__.co_names,
    }


def _codes(kind: type) -> Iterator[CodeType]:
    for value in vars(kind).values():
        if isinstance(value, FunctionType):
            yield value.__code__


async def test_a_stream_has_the_librarys_headers_and_two_tasks(server: LiveServer) -> None:
    server.backend.script = Script(delay_s=0.2)
    before = asyncio.run_coroutine_threadsafe(_count_tasks(), server.loop).result(5)
    body = body_of(CHAT, stream=True, max_tokens=3)
    with server.client.stream("POST", CHAT, json=body) as reply:
        tasks = asyncio.run_coroutine_threadsafe(_count_tasks(), server.loop).result(5)
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["x-accel-buffering"] == "no" and reply.headers["cache-control"] == "no-store"
        assert tasks - before <= 2
        assert "data: [DONE]" in reply.read().decode()


@pytest.mark.parametrize("text", ["x", "", "\u2028\u0085é", 'a"\\\n'])
def test_the_short_way_of_a_text_is_the_encoders(text: str) -> None:
    template = ChunkTemplate(reply_id="r", kind="k", created=1, model="m", fingerprint="f", include_usage=True)
    chat = ChatChunks(template, ChatChunkOptions(), None)  # type: ignore[arg-type]
    completions = CompletionChunks(template, CompletionChunkOptions(), [None])  # type: ignore[list-item]
    for encoder in (chat, completions, GenerateChunks()):
        assert encoder.text_frame is not None
        before, after = encoder.text_frame
        assert before + json_bytes(text) + after == encoder.delta(ChoiceDelta(0, content=text, token_ids=(1,)))


def test_a_text_has_no_short_way_when_chunks_say_more() -> None:
    template = ChunkTemplate(reply_id="r", kind="k", created=1, model="m", fingerprint="f", include_usage=True)
    for option in ("token_ids", "continuous_usage"):
        assert ChatChunks(template, ChatChunkOptions(**{option: True}), None).text_frame is None  # type: ignore[arg-type]
    for option in ("token_ids", "continuous_usage", "echo"):
        options = CompletionChunkOptions(**{option: True})
        assert CompletionChunks(template, options, [None]).text_frame is None  # type: ignore[list-item]


# ---- interrupting


async def test_an_interruption_becomes_its_error() -> None:
    live: set[Interruptible] = set()

    async def block() -> None:
        async with Interruptible(live):
            await asyncio.sleep(10)

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    (running,) = live
    running.interrupt(ApiError(503, "first"))
    running.interrupt(ApiError(500, "second"))
    with pytest.raises(ApiError, match="first"):
        await task
    assert not live and not task.cancelled()


async def test_a_late_interruption_does_not_leak_out_of_the_block() -> None:
    live: set[Interruptible] = set()
    with pytest.raises(ApiError, match="late"):
        async with Interruptible(live) as running:
            running.interrupt(ApiError(503, "late"))
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_cancellation_from_elsewhere_stays_cancellation() -> None:
    live: set[Interruptible] = set()

    async def block() -> None:
        async with Interruptible(live):
            await asyncio.sleep(10)

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not live


async def test_a_client_that_was_lost_before_the_block_interrupts_it() -> None:
    lost = LostConnection()
    lost.lose()
    with pytest.raises(ClientGoneError):
        async with Interruptible(set(), {"extensions": {ON_LOST: lost}}):
            await asyncio.sleep(10)
