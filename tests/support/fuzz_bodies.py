"""Hostile request bodies from a seed: right ones with a few places made wrong, and bytes that are hardly JSON.

Swapped types, nulls, huge and negative numbers, NaN, deep nesting, lone surrogates, empty strings and lists, control
tokens, unknown and repeated fields, at the top and at any place inside.
"""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass
from typing import Any

from oai_server.wire.chat import ChatRequest
from oai_server.wire.completions import CompletionRequest
from oai_server.wire.generate import GenerateRequest
from oai_server.wire.responses import ResponsesRequest
from oai_server.wire.tokens import DetokenizeRequest, TokenizeRequest

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", 1]}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Looks up.", "parameters": SCHEMA}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}
USER = {"role": "user", "content": "Hello"}
CHATS: list[dict[str, Any]] = [
    {"messages": [USER]},
    {"messages": [{"role": "system", "content": "Be kind."}, USER], "stream": True, "logprobs": True},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "n": 2, "stop": ["\n", "x"]},
    {"messages": [USER], "tools": [TOOL], "tool_choice": "auto", "chat_template_kwargs": {"enable_thinking": False}},
    {"messages": [USER], "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look_up"}}},
    {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "2"},
        ],
        "tools": [TOOL],
    },
    {
        "messages": [USER],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": SCHEMA}},
    },
    {"messages": [USER], "structured_outputs": {"regex": "[ab]{1,3}"}, "stream": True},
    {"messages": [USER], "logit_bias": {"5": 1.5}, "seed": 3, "top_logprobs": 2, "logprobs": True},
]
TEXTS: list[dict[str, Any]] = [
    {"prompt": "Hello"},
    {"prompt": ["Hello", "there"], "n": 2, "logprobs": 2, "echo": True},
    {"prompt": [1, 2, 3], "stream": True, "stream_options": {"include_usage": True}},
    {"prompt": [[1, 2], [3]], "stop_token_ids": [5], "min_tokens": 1, "prompt_logprobs": 1},
    {"prompt": "Hello", "guided_choice": ["yes", "no"], "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1},
    {"prompt": "Hello", "bad_words": ["a"], "allowed_token_ids": [1, 2, 3], "repetition_penalty": 1.1},
]
ITEMS: list[dict[str, Any]] = [
    {"input": "Hello", "stream": True},
    {
        "input": [
            USER,
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "2"},
        ],
        "tools": [{"type": "function", **TOOL["function"]}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    },
    {"input": "Hello", "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}}},
    {"input": "x", "include": ["message.output_text.logprobs"], "top_logprobs": 2, "metadata": {"a": "b"}},
    {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], "reasoning": {"effort": "low"}},
]
ROUTES: dict[str, tuple[list[dict[str, Any]], type]] = {
    "/v1/chat/completions": (CHATS, ChatRequest),
    "/v1/completions": (TEXTS, CompletionRequest),
    "/v1/responses": (ITEMS, ResponsesRequest),
    "/generate": ([{"prompt": "Hello", "max_tokens": 2}], GenerateRequest),
    "/generate_stream": ([{"prompt": "Hello", "max_tokens": 2}], GenerateRequest),
    "/tokenize": ([{"prompt": "Hello"}, {"messages": [USER], "tools": [TOOL]}], TokenizeRequest),
    "/detokenize": ([{"tokens": [1, 2, 3]}], DetokenizeRequest),
}
WEIGHTS = (8, 5, 3, 1, 1, 2, 1)
MAX_TOKENS = 3
RAW = {
    "@NaN@": "NaN",
    "@Infinity@": "-Infinity",
    "@1e999@": "1e999",
    "@surrogate@": '"a\\ud800b"',
    "@lists@": "[" * 900 + "]" * 900,
    "@objects@": '{"a":' * 900 + "1" + "}" * 900,
}
"""Stand-ins for what Python's encoder does not write; replaced in the text."""


@dataclass(frozen=True, slots=True)
class Case:
    path: str
    body: bytes
    changed: tuple[str, ...]
    """Top-level fields that were made wrong; empty where the bytes were."""


def case(seed: int) -> Case:
    rng = random.Random(seed)
    (path, (bases, struct)) = rng.choices(list(ROUTES.items()), WEIGHTS)[0]
    body = copy.deepcopy(rng.choice(bases))
    if path.startswith("/v1/"):
        body["max_output_tokens" if path == "/v1/responses" else "max_tokens"] = MAX_TOKENS
    changed = [_change(rng, body, struct) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5)
    for stand_in, raw in RAW.items():
        text = text.replace(f'"{stand_in}"', raw)
    if rng.random() < 0.08:
        return Case(path, _broken(rng, text), ())
    if body and rng.random() < 0.05:  # a repeated field: the last one counts
        name = rng.choice(list(body))
        text = "{" + json.dumps(name) + ": " + rng.choice(("null", "[]", "-1", '"x"')) + ", " + text[1:]
    return Case(path, text.encode("utf-8", "surrogatepass"), tuple(changed))


def _change(rng: random.Random, body: dict[str, Any], struct: type) -> str:
    """Makes one place wrong; the top-level field it lies in."""
    if not body or rng.random() < 0.5:
        name = rng.choice([*struct.__struct_fields__, "unknown_field"])  # type: ignore[attr-defined]
        body[name] = _value(rng)
        return str(name)
    name = rng.choice(list(body))
    place: Any = body
    key: Any = name
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    what = rng.random()
    if what < 0.4:
        place[key] = _like(rng, place[key])
    elif what < 0.65:
        place[key] = _value(rng)
    elif what < 0.75:
        del place[key]
    elif what < 0.85 and isinstance(place, dict):
        place[rng.choice(("role", "type", "name", "$ref", "content", "self", "messages", ""))] = _value(rng)
    elif isinstance(place[key], str | list | dict) and place[key]:
        place[key] = _grown(rng, place[key])
    return name


def _grown(rng: random.Random, value: Any) -> Any:
    count = rng.choice((2, 50, 2000))
    if isinstance(value, dict):
        return {**value, **{f"{name}{i}": child for name, child in value.items() for i in range(count)}}
    return value * count


def _like(rng: random.Random, value: Any) -> Any:
    """Something else of the same JSON type, so that more of it comes through to the engine."""
    kinds: dict[type, tuple[int, ...]] = {bool: (0,), int: (1,), float: (1, 2), str: (3, 4), list: (5,), dict: (6,)}
    return _value(rng, rng.choice(kinds.get(type(value), (0, 3))))


def _value(rng: random.Random, kind: int | None = None) -> Any:
    kind = rng.randrange(8) if kind is None else kind
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice((0, -1, 1, 2, 7, 255, 2**31, 2**32, -(2**31) - 1, 2**53, 2**63, 2**64, 10**400, -(10**400)))
    if kind == 2:
        return rng.choice(
            (
                0.0,
                -0.0,
                0.5,
                -1.5,
                1e-320,
                1e-30,
                1e-9,
                1e-4,
                1.7e308,
                3e38,
                2.0,
                3.5,
                1e20,
                "@NaN@",
                "@Infinity@",
                "@1e999@",
            )
        )
    if kind == 3:
        return rng.choice(STRINGS)
    if kind == 4:
        return rng.choice(
            ("@surrogate@", "x" * 3000, "字" * 500, "\ufffe\uffff", "🙂", "\u202e\u2028", "e\u0301" * 90)
        )
    if kind == 5:
        return [_value(rng) for _ in range(rng.choice((0, 0, 1, 2, 6)))]
    if kind == 6:
        names = ("a", "", "type", "role", "content", "function", "name", "$ref", "properties", "regex", "schema", "5")
        return {rng.choice(names): _value(rng) for _ in range(rng.choice((0, 1, 2, 3)))}
    return _nested(rng)


STRINGS = (
    "",
    " ",
    "\x00",
    "\x1b[31m",
    "a\r\nb: c",
    "none",
    "auto",
    "required",
    "json_schema",
    "user",
    "system",
    "assistant",
    "tool",
    "1",
    "-1",
    "true",
    "../../etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x",
    "{{ 7 * 7 }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "<|im_end|>\n<|im_start|>system",
    "<tool_call>",
    "<think>",
    "(a+)+$",
    "[",
    "(?=x)",
    "\\",
    "%999999999d",
    "{",
    '{"a": ',
    "NaN",
)


def _nested(rng: random.Random) -> Any:
    value: Any = rng.choice((None, 1, "x", "@lists@", "@objects@"))
    as_list = rng.random() < 0.5
    for _ in range(rng.choice((0, 3, 40, 70, 200))):
        value = (
            [value] if as_list else {"properties": {"a": value}, "items": 1} if rng.random() < 0.1 else {"a": value}
        )
    return value


def _broken(rng: random.Random, text: str) -> bytes:
    """Bytes that are no JSON, or hardly."""
    data = text.encode("utf-8", "surrogatepass")
    at = rng.randrange(len(data))
    return rng.choice(
        (
            data[:at],
            data + b" x",
            data[:at] + b"\xff" + data[at:],
            data[:at] + b"\x00" + data[at:],
            data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            b"[" * 20_000,
            b'{"a":' * 20_000,
            b"\xef\xbb\xbf" + data,
            b"[" + data + b"]",
            json.dumps(text).encode(),
            text.encode("utf-16", "surrogatepass"),
            b"",
        )
    )
