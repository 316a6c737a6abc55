"""Bodies that are large in an unusual way are refused before they take the event loop's time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.live_server import LiveServer, live_server
from tests.support.patience import wait_for

MIB = 1 << 20
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("path", "head", "value", "tail"),
    [
        ("/v1/completions", b'{"prompt": "a", "x": [', b"[],", b"1]}"),
        ("/v1/completions", b'{"max_tokens": 1, "prompt": [', b"5,", b"5]}"),
        ("/v1/completions", b'{"prompt": "a", "logit_bias": {', b'"1":1,', b'"2":1}}'),
        ("/v1/completions", b'{"prompt": "a", "guided_json": {"enum": [', b'"abc",', b"1]}}"),
        ("/v1/responses", b'{"input": "a", "metadata": {"a": [', b"[1],", b"1]}}"),
        ("/v1/chat/completions", b'{"messages": [', b'{"role":"user","content":""},', b"{}]}"),
        ("/detokenize", b'{"tokens": [', b"5,", b"5]}"),
    ],
    ids=["unknown", "prompt", "logit_bias", "guided_json", "metadata", "messages", "tokens"],
)
def test_many_small_values(server: LiveServer, path: str, head: bytes, value: bytes, tail: bytes) -> None:
    body = head + value * (24 * MIB // len(value)) + tail
    reply = server.client.post(path, content=body, headers=JSON)
    assert reply.status_code in (400, 413), reply.text[:200]
    assert reply.json()["error"]["code"] == "request_too_large" or reply.json()["error"]["param"]


def test_a_long_text_is_no_fault(server: LiveServer) -> None:
    text = "Once upon a time, there was {a} [list], " * (6 * MIB // 40)
    reply = server.post("/v1/completions", {"prompt": text, "max_tokens": 1})
    assert reply.status_code in (200, 400)
    assert reply.status_code == 200 or reply.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"guided_regex": "a" * (2 * MIB)}, "guided_regex"),
        ({"response_format": {"type": "json_object", "x": ["y" * MIB] * 2}}, "response_format"),
    ],
)
def test_large_forms(server: LiveServer, field: dict[str, object], param: str) -> None:
    reply = server.post("/v1/completions", {"prompt": "a", **field})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param


def test_what_is_said_again_is_not_large(server: LiveServer) -> None:
    reply = server.post("/v1/responses", {"input": "a", "metadata": {"a": "x" * (5 * MIB)}})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "metadata"


def test_ids_beyond_the_context_are_refused_before_they_are_looked_at(server: LiveServer) -> None:
    most = server.backend.card.max_model_len
    reply = server.post("/v1/completions", {"prompt": [[1], [5] * (most + 1)], "max_tokens": 1})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert f"maximum context length is {most} tokens" in error["message"]


@pytest.mark.parametrize("ids", [[-1, 5], [5, 2**31], [2**64, -5]])
def test_ids_out_of_any_vocabulary(server: LiveServer, ids: list[int]) -> None:
    reply = server.post("/v1/completions", {"prompt": ids, "max_tokens": 1})
    assert reply.status_code == 400 and "out-of-vocab" in reply.json()["error"]["message"]


CALL = b'{"type": "function_call", "name": "f", "call_id": "1", "arguments": "{}"}'
PARTS = {
    "items": ("/v1/responses", b'{"input": [', b'{"type":"function_call"},', b"]}", "input"),
    "calls": (
        "/v1/chat/completions",
        b'{"messages": [{"role":"assistant","tool_calls":[',
        b"{},",
        b"]}]}",
        "messages",
    ),
    "parts": ("/v1/chat/completions", b'{"messages": [{"role":"user","content":[', b'"",', b"]}]}", "messages"),
    "tokenized": ("/tokenize", b'{"messages": [{"role":"user","content":[', b'"",', b"]}]}", "messages"),
    "blocks": (
        "/v1/messages",
        b'{"max_tokens":1,"messages": [{"role":"user","content":[',
        b'{"type":"text","text":""},',
        b"]}]}",
        "messages",
    ),
    "counted": (
        "/v1/messages/count_tokens",
        b'{"messages": [{"role":"assistant","content":[',
        b'{"type":"tool_use","id":"1","name":"f"},',
        b"]}]}",
        "messages",
    ),
}
"""Of one conversation: path, what comes before them, one of them, what comes behind, and the field at fault."""


@pytest.mark.parametrize("name", PARTS)
def test_parts_and_calls_are_counted_before_they_are_looked_at(server: LiveServer, name: str) -> None:
    path, head, part, tail, param = PARTS[name]
    reply = server.client.post(path, content=head + part * 150_000 + part[:-1] + tail, headers=JSON)
    assert reply.status_code == 400, reply.text[:200]
    assert f"All {param} together" in reply.text or f"{param} should have at most" in reply.text
    if not path.startswith("/v1/messages"):
        assert reply.json()["error"]["param"] == param


def test_many_calls_in_a_row_are_one_turn(server: LiveServer) -> None:
    items = [json.loads(CALL), {**json.loads(CALL), "name": "g"}, {"role": "user", "content": "x"}] * 500
    assert server.post("/v1/responses", {"input": items, "max_output_tokens": 1}).status_code == 200
    messages = server.backend.requests[-1].prompt.messages
    assert len(messages) == 1000
    assert [call["function"]["name"] for call in messages[-2]["tool_calls"]] == ["f", "g"]


def test_many_allowed_tools(server: LiveServer) -> None:
    """A look at all of them for each tool would take seconds."""
    tools = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(512)]

    def ask(*last: Any) -> int:
        listed = [{"function": {"name": "nobody"}}] * 60_000 + [5, {"function": {"name": {}}}, *last]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": listed}}
        message = {"role": "user", "content": "x"}
        body = {"messages": [message], "tools": tools, "tool_choice": choice, "max_tokens": 1}
        return server.post("/v1/chat/completions", body).status_code

    assert ask() == 400
    assert ask({"function": {"name": "f7"}}) == 200
    assert [tool["function"]["name"] for tool in server.backend.requests[-1].prompt.tools] == ["f7"]


# ---- how much one request may ask for


@pytest.fixture(scope="module")
def frugal() -> Iterator[LiveServer]:
    with live_server(max_tokens_per_request=8000, max_grammar_kib=2, max_json_depth=5) as server:
        yield server


CHAT_BODY = {"messages": [{"role": "user", "content": "x"}]}
AMOUNTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "choices": ({"prompt": "a", "n": 80, "max_tokens": 100}, None),
    "more choices": ({"prompt": "a", "n": 81, "max_tokens": 100}, "max_tokens"),
    "prompts": ({"prompt": ["a"] * 41, "n": 2, "max_tokens": 100}, "max_tokens"),
    "by default": ({"prompt": ["a"] * 501}, "max_tokens"),
    "logprobs": ({"prompt": "a", "n": 4, "max_tokens": 100, "logprobs": 19}, None),
    "more logprobs": ({"prompt": "a", "n": 4, "max_tokens": 101, "logprobs": 19}, "max_tokens"),
    "logprobs of prompts": ({"prompt": [[5] * 400], "prompt_logprobs": 20}, None),
    "more logprobs of prompts": ({"prompt": [[5] * 400, [5]], "prompt_logprobs": 20}, "prompt_logprobs"),
    "logprobs of a text": ({"prompt": "a " * 201, "prompt_logprobs": 20}, "prompt_logprobs"),
    "logprobs of an echo": ({"prompt": [5] * 401, "echo": True, "logprobs": 20}, "logprobs"),
    "a chat's": ({**CHAT_BODY, "n": 8, "max_completion_tokens": 1001}, "max_completion_tokens"),
    "a chat's to the context's end": ({**CHAT_BODY, "logprobs": True, "top_logprobs": 1, "n": 1}, "max_tokens"),
}


@pytest.mark.parametrize("name", AMOUNTS)
def test_tokens_and_logprobs_of_one_request(frugal: LiveServer, name: str) -> None:
    body, param = AMOUNTS[name]
    reply = frugal.post("/v1/chat/completions" if "messages" in body else "/v1/completions", body)
    assert reply.status_code == (400 if param else 200), reply.text[:300]
    assert param is None or reply.json()["error"]["param"] == param
    assert param is None or "must be at most 8000, got" in reply.json()["error"]["message"]


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ({"guided_regex": "a" * 2000}, True),
        ({"guided_regex": "a" * 2100}, False),
        ({"structured_outputs": {"choice": ["x" * 50] * 45}}, False),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": deep(3)}}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": deep(6)}}}, False),
        ({"guided_json": deep(9)}, False),
    ],
)
def test_size_and_depth_of_a_form_are_settings(frugal: LiveServer, field: dict[str, Any], allowed: bool) -> None:
    reply = frugal.post("/v1/completions", {"prompt": "a", **field})
    assert reply.status_code == (200 if allowed else 400), reply.text[:300]
    assert allowed or reply.json()["error"]["param"] == next(iter(field))


# ---- bodies that are on their way


def test_large_bodies_on_their_way_are_bounded_together() -> None:
    """Eight times the limit of one is what all may hold. Small ones pass, and places come free."""
    with live_server(max_body_mib=2) as server:
        size = 3 * MIB // 2
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += b"Content-Length: %d\r\n\r\n" % (2 * MIB)
        senders = [server.raw() for _ in range(16)]
        for sender in senders:
            sender.sendall(head + b" " * size)
        refused: set[int] = set()

        def some_are_refused() -> bool:
            for i, sender in enumerate(senders):
                sender.setblocking(False)
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    if reply := sender.recv(65536):
                        assert reply.startswith(b"HTTP/1.1 503") and b"retry-after: " in reply
                        refused.add(i)
            return len(refused) >= 6

        wait_for(some_are_refused, "those beyond eight times the limit")
        assert server.services.bodies.held <= server.services.bodies.limit
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
        for sender in senders:
            sender.close()
        wait_for(lambda: server.services.bodies.held == 0, "nothing is held any more")
        text = "a" * size
        assert server.post("/v1/completions", {"prompt": text, "max_tokens": 1}).status_code == 200
