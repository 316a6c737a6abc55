"""/v1/messages when something is wrong: errors in Anthropic's shape that name the field, limits, keys, departures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineDeadError,
    EngineOverloadedError,
    EngineUnavailableError,
    RequestFailedError,
)
from oai_server.openapi import document
from tests.oai_server.test_messages import COUNT, PATH, TOOL, USER, events_of
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer, live_server

KEY = "sk-own"
SCHEMAS: dict[str, Any] = json.loads(document())["components"]["schemas"]


@pytest.fixture(scope="module")
def locked() -> Iterator[LiveServer]:
    settings = {"api_key": (KEY,), "max_concurrent_requests_per_key": 1, "max_body_mib": 0.01}
    with live_server(**settings) as server:  # type: ignore[arg-type]
        yield server


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], "max_tokens": 2, **fields}


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


def said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": list(blocks)}]}


def check_error(reply: Any, status: int, kind: str) -> str:
    assert reply.status_code == status, reply.text
    error = reply.json()
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert error["request_id"] == reply.headers["x-request-id"]
    return str(error["error"]["message"])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": "3"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [3]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    (block(text="x"), "messages[0].content[0]"),
    (block(type="text"), "messages[0].content[0].text"),
    (block(type="image", source={}), "messages[0].content[0]: this model reads text only; image"),
    (block(type="document", source={}), "messages[0].content[0]: this model reads text only; document"),
    (block(type="thinking", thinking="x"), "messages[0].content[0].type"),
    (block(type="search_result"), "messages[0].content[0].type"),
    (block(type="tool_result", content="x"), "messages[0].content[0].tool_use_id"),
    (block(type="tool_result", tool_use_id="c", content=3), "messages[0].content[0].content"),
    (
        block(type="tool_result", tool_use_id="c", content=[{"type": "image"}]),
        "messages[0].content[0].content[0]: this model reads text only",
    ),
    (said({"type": "tool_use", "id": "c", "name": "f", "input": "{}"}), "messages[1].content[0].input"),
    (said({"type": "tool_use", "id": "c", "input": {}}), "messages[1].content[0].name"),
    (said({"type": "tool_use", "name": "f", "input": {}}), "messages[1].content[0].id"),
    (said({"type": "thinking"}), "messages[1].content[0].thinking"),
    (said({"type": "tool_result", "tool_use_id": "c"}), "messages[1].content[0].type"),
    ({"system": 3}, "system"),
    ({"system": [{"type": "image"}]}, "system[0]"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}, {**TOOL, "name": "a b"}]}, "tools[1].name"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}, TOOL, TOOL]}, "tools[2].name"),
    ({"tools": [TOOL] * 1000}, "tools"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
    ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["x"] * 99}, "stop_sequences"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -5}, "top_k"),
    ({"thinking": {"type": "maybe"}}, "thinking.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "great"}}, "output_config.effort"),
    ({"output_config": {"effort": 3}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "json"}}}, "output_config.format"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 3}}}}, "output_config.format"),
    ({"metadata": []}, "metadata"),
    ({"mcp_servers": [{"url": "http://127.0.0.1/"}]}, "mcp_servers"),
    ({"container": "c"}, "container"),
]


@pytest.mark.parametrize(("fields", "place"), BAD, ids=str)
def test_bad_shapes_are_400_and_name_the_field(server: LiveServer, fields: dict[str, Any], place: str) -> None:
    message = check_error(server.post(PATH, body(**fields)), 400, "invalid_request_error")
    assert place in message
    assert not any(word in message for word in ("max_completion_tokens", "response_format", "function", "stop "))


def test_max_tokens_is_required(server: LiveServer) -> None:
    message = check_error(server.post(PATH, {"messages": [USER]}), 400, "invalid_request_error")
    assert "'max_tokens'" in message
    assert "'messages'" in check_error(server.post(COUNT, {}), 400, "invalid_request_error")


@pytest.mark.parametrize("path", [PATH, COUNT])
def test_errors_before_the_body_is_understood(server: LiveServer, path: str) -> None:
    json_type = {"content-type": "application/json"}
    for content in (b"{", b"\xff", b"[" * 100_000):
        check_error(server.client.post(path, content=content, headers=json_type), 400, "invalid_request_error")
    check_error(server.client.post(path, content=b"{}"), 415, "invalid_request_error")
    check_error(server.post(path, body(model="nope")), 404, "not_found_error")
    check_error(server.get(path), 405, "invalid_request_error")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (EngineOverloadedError("full", 3), 429, "rate_limit_error"),
        (EngineUnavailableError("starting", 2), 503, "overloaded_error"),
        (EngineDeadError("dead"), 503, "overloaded_error"),
        (RequestFailedError("failed"), 500, "api_error"),
        (DeadlineExceededError("late"), 504, "timeout_error"),
        (ContextLengthError("The limit is 3 tokens."), 400, "invalid_request_error"),
        (RuntimeError("secret"), 500, "api_error"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_statuses(server: LiveServer, error: Exception, status: int, kind: str, stream: bool) -> None:
    server.backend.script = Script(admission_error=error)
    reply = server.post(PATH, body(stream=stream))
    message = check_error(reply, status, kind)
    assert "secret" not in message
    assert ("retry-after" in reply.headers) == (status in (429, 503))
    assert message.startswith("prompt is too long: ") == isinstance(error, ContextLengthError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(EngineDeadError("The engine stopped."), "overloaded_error"), (RuntimeError("boom"), "api_error")],
    ids=str,
)
@pytest.mark.parametrize("after", [0, 2])
def test_a_failure_in_mid_stream_is_an_error_event(
    server: LiveServer, error: Exception, kind: str, after: int
) -> None:
    server.backend.script = Script(texts=["x"] * 4, fail_after=after, error=error)
    reply = server.post(PATH, body(stream=True))
    last = events_of(reply.text)[-1]
    assert (last["type"], last["error"]["type"]) == ("error", kind)
    assert "boom" not in reply.text and "[DONE]" not in reply.text
    server.wait_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_everything(server: LiveServer, stream: bool) -> None:
    server.backend.script = Script(delay_s=0.02)
    cancelled = server.backend.ended["cancelled"]
    content = json.dumps(body(max_tokens=1000, stream=stream)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x.localhost\r\nContent-Type: application/json\r\n"
    connection = server.raw()
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    if stream:
        received = b""
        while b"content_block_delta" not in received:
            received += connection.recv(65536)
    else:
        while not server.backend.live:
            time.sleep(0.005)
    connection.close()
    server.wait_idle()
    assert server.backend.ended["cancelled"] == cancelled + 1


# ---- keys and limits


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": f"Bearer {KEY}"}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": KEY}, 401),
        ({"x-api-key": KEY}, 200),
        ({"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}, 200),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": "Bearer stale", "x-api-key": KEY}, 200),
        ({"authorization": f"Bearer {KEY}", "x-api-key": "stale"}, 200),
    ],
    ids=str,
)
def test_keys(locked: LiveServer, headers: dict[str, str], status: int) -> None:
    for path in (PATH, PATH + "?beta=true", COUNT):
        reply = locked.post(path, body(), headers=headers)
        assert reply.status_code == status, reply.text
        if status == 401:
            assert KEY not in check_error(reply, 401, "authentication_error")
    assert locked.get("/v1/models", headers=headers).status_code == status


def test_the_limit_of_a_key_and_of_the_body(locked: LiveServer) -> None:
    locked.backend.script = Script(delay_s=0.05)
    own = {"x-api-key": KEY}
    with locked.client.stream("POST", PATH, json=body(max_tokens=100, stream=True), headers=own) as first:
        events = first.iter_bytes()
        next(events)
        reply = locked.post(PATH, body(), headers={"authorization": f"Bearer {KEY}"})
        check_error(reply, 429, "rate_limit_error")
    locked.wait_idle()
    locked.backend.script = Script()
    assert locked.post(PATH, body(), headers=own).status_code == 200
    check_error(locked.post(PATH, body(system="x" * 20_000), headers=own), 413, "request_too_large")
    locked.check_alive()


# ---- whatever comes


@pytest.mark.parametrize(("path", "name"), [(PATH, "MessagesRequest"), (COUNT, "CountTokensRequest")])
def test_bodies_made_from_the_schema_get_no_5xx(server: LiveServer, path: str, name: str) -> None:
    values: list[Any] = [True, -1, 1.5, 2**70, "", [], [1], {"a": 1}, [None], [{}], {"type": {}}, [{"type": []}]]
    for field in SCHEMAS[name]["properties"]:
        for value in values:
            reply = server.post(path, body(**{field: value}))
            assert reply.status_code in (200, 400, 404), (field, value, reply.text)
            if reply.status_code != 200:
                check_error(reply, reply.status_code, reply.json()["error"]["type"])


def test_blocks_of_any_shape_get_no_5xx(server: LiveServer) -> None:
    values: list[Any] = [None, True, 3, "", "x", [], ["x"], {}, [{}], [{"type": "text", "text": "x"}], [[]]]
    kinds = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result", "image", "no such", "")
    for role in ("user", "assistant", "system"):
        for kind in kinds:
            for field in ("text", "thinking", "id", "name", "input", "tool_use_id", "content", "is_error"):
                full = {"type": kind, "text": "x", "thinking": "x", "id": "c", "name": "f", "tool_use_id": "c"}
                message = [{"role": role, "content": [{**full, field: value}]} for value in values]
                for one in message:
                    reply = server.post(COUNT, {"messages": [one]})
                    assert reply.status_code in (200, 400), (one, reply.text)
