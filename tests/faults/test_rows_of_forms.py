"""Rows E of the fault table: forms of a reply that are wrong, endless or odd, against the bundled model."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from tests.support.fault_demo import (
    Demo,
    address,
    check_answered,
    check_refused,
)


def schema(value: Any, *, strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "strict": strict, "schema": value}}


REFUSED_SCHEMAS: dict[str, Any] = {
    "E02 false": False,
    "E02 dangling": {"$ref": "#/$defs/none"},
    "E02 remote": {"$ref": "{address}"},
    "E02 remote inside": {"type": "object", "properties": {"a": {"$ref": "{address}#/a"}}},
    "E04 cycle": {"$ref": "#"},
    "E04 cycle of two": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "E04 cycle in anyOf": {"anyOf": [{"$ref": "#/anyOf/0"}]},
    "E06 look-ahead": {"type": "string", "pattern": "(?=a)b"},
    "E06 back-reference": {"type": "string", "pattern": r"(a)\1"},
    "E06 if": {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}},
    "E06 not": {"not": {"type": "string"}},
    "E06 format": {"type": "string", "format": "banana"},
    "E09 enum": {"enum": [f"value {i}" for i in range(50_000)]},
    "E10 impossible": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "unknown type": {"type": "banana"},
    "bound out of range": {"type": "integer", "minimum": 10**400},
    "zero": {"type": "integer", "multipleOf": 0},
}


@pytest.mark.parametrize("field", ["response_format", "structured_outputs", "guided_json", "tools"])
def test_e02_e04_e06_e09_schemas_that_cannot_be_kept(demo: Demo, bait: socket.socket, field: str) -> None:
    for name, template in REFUSED_SCHEMAS.items():
        value = json.loads(json.dumps(template).replace("{address}", address(bait)))
        if name == "E04 cycle" and field == "tools":
            value = {"$ref": "#/properties/a"}  # "#" would be the parameters' own schema: a form like any other
        reply = demo.chat(**asking_for(value, field), max_tokens=30)
        if name in ("E06 if", "E06 not", "E06 format") and field in ("structured_outputs", "guided_json"):
            check_answered(reply)  # without `strict`, what cannot be enforced is left out
            continue
        too_long = reply.json()["error"]["code"] == "context_length_exceeded"  # a tool stands in the prompt, too
        check_refused(reply, "messages" if too_long else field)


def asking_for(value: Any, field: str) -> dict[str, Any]:
    """A schema's place in a request."""
    if field == "tools":
        parameters = {"type": "object", "properties": {"a": value}, "required": ["a"]}
        tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": parameters}}
        return {"tools": [tool], "tool_choice": "required"}
    if field == "response_format":
        return {"response_format": schema(value)}
    return {field: {"json": value} if field == "structured_outputs" else value}


def test_e02_any_json(demo: Demo) -> None:
    for value in (True, {}, {"$schema": "http://json-schema.org/draft-07/schema#"}):
        reply = demo.complete("JSON:", response_format=schema(value), max_tokens=60, temperature=0)
        choice = reply.json()["choices"][0]
        if choice["finish_reason"] == "stop":
            json.loads(choice["text"])


@pytest.mark.parametrize(
    "value",
    [
        {"type": "array", "items": {"type": "integer"}, "minItems": 2**64 - 1},
        {"type": "array", "maxItems": 2**64 - 1, "minItems": 1000},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "^(a{1000}){1000}$"},
        {"type": "string", "pattern": "^(a+)+$", "minLength": 1000},
    ],
    ids=str,
)
def test_e07_endless_forms_end_by_length(demo: Demo, value: Any) -> None:
    reply = demo.complete(response_format=schema(value), max_tokens=30)
    if reply.status_code != 400:
        assert reply.json()["choices"][0]["finish_reason"] == "length"
    else:
        check_refused(reply, "response_format")


def test_e09_two_thousand_properties(demo: Demo) -> None:
    names = [f"p{i}" for i in range(2000)]
    value = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    reply = demo.complete(response_format=schema(value))
    assert reply.status_code == 200 or check_refused(reply, "response_format")


@pytest.mark.parametrize("stream", [False, True])
def test_e10_a_form_that_allows_nothing_in_its_middle(demo: Demo, stream: bool) -> None:
    grammar = 'start: "ab" X\nX: /a/ & /b/'
    others = threading.Thread(target=lambda: check_answered(demo.complete("Once", max_tokens=40)))
    others.start()
    reply = demo.complete(structured_outputs={"grammar": grammar}, stream=stream)
    others.join()
    if reply.status_code == 200:
        assert '"error"' in reply.text or '"finish_reason":"stop"' in reply.text
    else:
        check_refused(reply, "structured_outputs")


def test_e11_many_different_schemas_are_forgotten(demo: Demo) -> None:
    """Memory after 200 schemas; with a cache without bound, they would all be there."""

    def ask(first: int, count: int) -> None:
        for i in range(first, first + count):
            names = [f"name_{i}_{j}" for j in range(40)]
            value = {"type": "object", "properties": {name: {"type": "integer"} for name in names}, "required": names}
            check_answered(demo.complete(response_format=schema(value), max_tokens=1))

    ask(0, 60)
    before = demo.memory_bytes()
    ask(60, 200)
    assert demo.memory_bytes() < before + (48 << 20)


def test_e12_forms_with_everything_else(demo: Demo) -> None:
    value = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    fields: dict[str, Any] = {"n": 4, "logprobs": 3, "stop": ["}", "\n\n\n"], "min_tokens": 3, "max_tokens": 60}
    reply = demo.complete(response_format=schema({**value, "additionalProperties": False}), **fields)
    check_answered(reply)
    for choice in reply.json()["choices"]:
        if choice["finish_reason"] == "stop" and choice["stop_reason"] == "}":
            assert set(json.loads(choice["text"] + "}")) == {"a"}
        assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["top_logprobs"])


def test_forms_are_spelled_exactly(demo: Demo) -> None:
    """Letters that NFC would compose and what looks like a control token are characters like others."""
    for text in ("<tool_call>", "a<think>b</think>", "e\u0301e\u0301", "\u212b", "<|im_end|>"):
        reply = demo.complete(structured_outputs={"choice": [text]}, max_tokens=60)
        assert reply.json()["choices"][0]["text"] == text
