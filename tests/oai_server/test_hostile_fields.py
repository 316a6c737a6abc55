"""More fields that are wrong at some depth, on every endpoint: each is named by the place where it is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.backend import ChatPrompt
from tests.oai_server.test_faults_body import CHAT, COMPLETIONS, TOOL, USER, chat, check_error, completion, nested
from tests.support.live_server import LiveServer

RESPONSES = "/v1/responses"
FUNCTION = {"type": "function", "name": "f", "parameters": {}}


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def response(input: Any = "a", **fields: Any) -> tuple[str, dict[str, Any]]:
    return RESPONSES, {"input": input, **fields}


BAD: dict[str, tuple[tuple[str, dict[str, Any]], str]] = {
    "named tool of another type": (
        chat(tools=[TOOL], tool_choice={"type": "custom", "function": {"name": "f"}}),
        "tool_choice",
    ),
    "tool choice's type a number": (
        chat(tools=[TOOL], tool_choice={"type": 5, "function": {"name": "f"}}),
        "tool_choice",
    ),
    "description a number": (chat(tools=[function(description=5)]), "tools[0].function.description"),
    "description an object": (
        chat(tools=[TOOL, function(name="g", description={})]),
        "tools[1].function.description",
    ),
    "strict a string": (chat(tools=[function(strict="yes")]), "tools[0].function.strict"),
    "suffix a list": (completion(suffix=[]), "suffix"),
    "suffix an object": (completion(suffix={}), "suffix"),
    "stream options without a stream": (chat(stream_options={"include_usage": False}), "stream_options"),
    "documents of texts": (chat(documents=["x"]), "documents"),
    "documents an object": (chat(documents={"a": "b"}), "documents"),
    "deep documents": (chat(documents=[nested(100)]), "documents"),
    "two endings of a tokenized prompt": (
        ("/tokenize", {**USER, "add_generation_prompt": True, "continue_final_message": True}),
        "continue_final_message",
    ),
    "a tool without a type": (response(tools=[{"name": "f"}]), "tools[0].type"),
    "a tool's type a number": (response(tools=[FUNCTION, {"type": 5}]), "tools[1].type"),
    "a tool behind another one": (
        response(tools=[{"type": "web_search"}, {"type": "function"}]),
        "tools[1].name",
    ),
    "a tool's parameters": (response(tools=[{**FUNCTION, "parameters": 5}]), "tools[0].parameters"),
    "custom choice": (response(tools=[FUNCTION], tool_choice={"type": "custom", "name": "f"}), "tool_choice"),
    "a format without a schema": (response(text={"format": {"type": "json_schema", "name": "x"}}), "text.format"),
}
PLACES: dict[str, tuple[tuple[str, dict[str, Any]], str]] = {
    "an item without a role": (response([{"content": "x"}]), "input[0].role"),
    "an item behind a thought": (
        response([{"type": "reasoning", "summary": []}, {"role": "user", "content": 5}], instructions="i"),
        "input[1].content",
    ),
    "a part of an item": (
        response([{"role": "user", "content": [{"type": "input_image", "image_url": "http://a"}]}], instructions="i"),
        "input[0].content[0]",
    ),
}
"""Found where messages are made fit for the template: tests/faults/test_hostile_places.py."""


@pytest.mark.parametrize("name", BAD)
def test_is_named(server: LiveServer, name: str) -> None:
    (path, body), param = BAD[name]
    check_error(server.post(path, body), param)


@pytest.mark.parametrize("depth", [200, 900, *range(966, 990, 3), 50_000])
@pytest.mark.parametrize("field", ["metadata", "text", "reasoning", "tools", "tool_choice"])
def test_what_is_said_again_is_not_too_deep_to_say(server: LiveServer, field: str, depth: int) -> None:
    """JSON that can just be read, and that could not be written any more."""
    value = '{"a":' * depth + "1" + "}" * depth
    value = f'[{{"type":"web_search","x":{value}}}]' if field == "tools" else value
    for stream in ("true", "false"):
        body = f'{{"input": "a", "stream": {stream}, "{field}": {value}}}'
        reply = server.post(RESPONSES, content=body.encode(), headers={"content-type": "application/json"})
        assert reply.status_code == 400, reply.text[:200]
        assert reply.json()["error"]["param"] == field or reply.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("depth", [60, 500, *range(966, 990, 3)])
def test_forms_of_any_depth_end_as_a_client_s_fault(server: LiveServer, depth: int) -> None:
    value = '{"a":' * depth + "1" + "}" * depth
    body = f'{{"prompt": "a", "max_tokens": 1, "guided_json": {value}}}'
    reply = server.post(COMPLETIONS, content=body.encode(), headers={"content-type": "application/json"})
    assert reply.status_code in ((200,) if depth < 64 else (400,)), reply.text[:200]


def test_documents_reach_the_template(server: LiveServer) -> None:
    documents = [{"title": "t", "text": "x"}]
    assert server.post(CHAT, {**USER, "documents": documents}).status_code == 200
    prompt = server.backend.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt) and list(prompt.documents) == documents
    assert server.post(CHAT, {**USER, "documents": []}).status_code == 200


def test_no_options_for_no_stream_are_no_fault(server: LiveServer) -> None:
    for options in ({}, {"include_usage": None}, None):
        assert server.post(CHAT, {**USER, "stream_options": options}).status_code == 200


@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate, chunked"])
def test_transfer_codings_are_never_undone(server: LiveServer, coding: str) -> None:
    body = json.dumps({"prompt": "a"}).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nTransfer-Encoding: {coding}\r\n\r\n"
    )
    received = server.send(head.encode() + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 415 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
