"""Each limit is a setting: with a small one, what just fits is served, and one more is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from oai_server.settings import LimitSettings, ServerSettings
from tests.oai_server.test_faults_body import chat, check_error, completion
from tests.support.live_server import LiveServer, live_server

LIMITS: dict[str, Any] = {
    "max_n": 3,
    "max_prompts": 4,
    "max_sequences_per_request": 6,
    "max_tokens_per_request": 200,
    "max_messages": 2,
    "max_tools": 1,
    "max_stop": 1,
    "max_stop_chars": 3,
    "max_stop_token_ids": 1,
    "max_bad_words": 1,
    "max_logit_bias": 1,
    "max_allowed_token_ids": 2,
    "max_json_depth": 3,
    "max_grammar_kib": 1,
    "max_header_kib": 1,
    "max_headers": 12,
    "max_body_mib": 0.01,
}
ELSEWHERE = {
    "max_num_queued_reqs": "tests/faults/test_overload.py",
    "max_queue_wait": "tests/faults/test_clients_that_misbehave.py",
    "request_timeout": "tests/faults/test_clients_that_misbehave.py",
    "max_concurrent_requests_per_key": "tests/oai_server/test_faults_access.py",
    "template_timeout": "tests/adapters/test_text_deadlines.py",
    "grammar_timeout": "tests/adapters/test_text_deadlines.py",
    "max_connections": "tests/oai_server/test_faults_connection.py",
    "header_timeout": "tests/oai_server/test_faults_connection.py",
    "body_timeout": "tests/oai_server/test_faults_connection.py",
    "keep_alive_timeout": "tests/oai_server/test_faults_connection.py",
    "write_timeout": "tests/oai_server/test_streaming.py",
    "send_buffer_kib": "tests/faults/test_silent_clients.py",
}
"""Limits of time and of crowds, which need more than one request."""


def tools(count: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": f"f{i}"}} for i in range(count)]


def turns(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "x"}] * count


Asked = tuple[str, dict[str, Any]]
CASES: dict[str, tuple[Asked, Asked, str]] = {
    "max_n": (completion(n=3), completion(n=4), "n"),
    "max_prompts": (completion(prompt=["a"] * 4), completion(prompt=["a"] * 5), "prompt"),
    "max_sequences_per_request": (completion(prompt=["a"] * 2, n=3), completion(prompt=["a"] * 3, n=3), "n"),
    "max_tokens_per_request": (completion(max_tokens=200), completion(max_tokens=201), "max_tokens"),
    "max_messages": (chat(messages=turns(2)), chat(messages=turns(3)), "messages"),
    "max_tools": (chat(tools=tools(1)), chat(tools=tools(2)), "tools"),
    "max_stop": (chat(stop=["a"]), chat(stop=["a", "b"]), "stop"),
    "max_stop_chars": (chat(stop="abc"), chat(stop="abcd"), "stop"),
    "max_stop_token_ids": (chat(stop_token_ids=[1]), chat(stop_token_ids=[1, 2]), "stop_token_ids"),
    "max_bad_words": (chat(bad_words=["a"]), chat(bad_words=["a", "b"]), "bad_words"),
    "max_logit_bias": (chat(logit_bias={"1": 1}), chat(logit_bias={"1": 1, "2": 1}), "logit_bias"),
    "max_allowed_token_ids": (chat(allowed_token_ids=[1, 2]), chat(allowed_token_ids=[1, 2, 3]), "allowed_token_ids"),
    "max_json_depth": (
        chat(chat_template_kwargs={"a": {"b": []}}),
        chat(chat_template_kwargs={"a": {"b": {"c": [{}]}}}),
        "chat_template_kwargs",
    ),
    "max_grammar_kib": (completion(guided_regex="a" * 900), completion(guided_regex="a" * 1100), "guided_regex"),
}


@pytest.fixture(scope="module")
def module_server() -> Iterator[LiveServer]:
    with live_server(**LIMITS) as server:
        yield server


@pytest.mark.parametrize("name", CASES)
def test_what_fits_and_one_more(server: LiveServer, name: str) -> None:
    (path, fits), (_, too_much), param = CASES[name]
    for body in (fits, too_much):
        body.setdefault("max_tokens", 2)
    assert server.post(path, fits).status_code == 200
    before = len(server.backend.requests)
    check_error(server.post(path, too_much), param)
    assert len(server.backend.requests) == before


def test_headers_and_bodies(server: LiveServer) -> None:
    """Each connection's client sends some headers of its own."""
    few = {f"x-{i}": "1" for i in range(2)}
    assert server.client.get("/health", headers=few).status_code == 200
    assert server.client.get("/health", headers={f"x-{i}": "1" for i in range(13)}).status_code == 431
    assert server.client.get("/health", headers={"x": "y" * 1100}).status_code == 431
    assert server.post(*completion(prompt="a " * 3000, max_tokens=2)).status_code == 200
    reply = server.post(*completion(prompt="a " * 6000, max_tokens=2))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


def test_no_limit_is_left_out() -> None:
    limits = set(LimitSettings.__struct_fields__) - set(ServerSettings.__struct_fields__)
    assert limits == set(LIMITS) | set(ELSEWHERE)
