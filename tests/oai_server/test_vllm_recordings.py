"""Requests recorded against vLLM, sent to ours: the same status, words and keys, but for deliberate differences."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from oai_server.app import create_app
from oai_server.settings import Settings
from tests.support.fake_backend import FakeBackend

RECORDINGS = Path(__file__).parents[3] / "shared" / "spec" / "vllm_recordings.jsonl"
PATHS = {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"}

STATUS_DIFFERS = {
    "plain/chat_tool_auto_without_parser": "the parser is chosen from the model, so tools just work",
    **dict.fromkeys(
        (
            *("plain/chat_tool_required", "plain/chat_tool_required_two_tools", "plain/chat_tool_required_stream"),
            *("plain/chat_tool_required_truncated", "plain/chat_tool_named", "plain/chat_tool_named_stream"),
            "plain/chat_parallel_tool_calls_false",
        ),
        "the parser is chosen from the model, so tools just work",
    ),
    "plain/chat_tools_no_choice": "the parser is chosen from the model, so tools just work",
    "plain/chat_tools_empty_list": "clients send empty lists",
    "plain/chat_message_null_content": "clients replay messages with content null",
    "plain/chat_message_without_role": "checked where messages are made fit for the template",
    "plain/chat_best_of": "best_of would change the answer: refused, not dropped",
    "plain/comp_best_of": "best_of would change the answer: refused, not dropped",
    "plain/chat_stream_bool_string": "strings are no booleans",
    "plain/chat_body_text_plain": "415 is the status for that",
    "more/chat_gzip_body": "415 is the status for that",
    "plain/comp_prompt_list_n2": "several greedy choices are allowed, as at OpenAI",
    "more/chat_n_129": "n is at most 128, as at OpenAI",
}
WORDS_DIFFER = {
    "plain/chat_json_schema_missing_schema": "without the tail that names the parameter, which is in param",
    "plain/chat_json_schema_bad_schema": "the grammar library's words",
    "plain/chat_structured_bad_regex": "the grammar library's words",
    "more/chat_structural_tag": "not on offer",
    "plain/chat_n_string": "strings are no numbers",
    "plain/chat_top_logprobs_21": "the parameter is named as the client wrote it",
    "plain/comp_logprobs_negative": "the whole vocabulary is not on offer",
    "plain/chat_context_overflow": "the backend's words; the fake has its own",
    "plain/comp_context_overflow": "the backend's words; the fake has its own",
    "more/chat_nan": "NaN is no JSON",
}
NOT_SENT = {"kv_transfer_params", "ec_transfer_params", "metrics", "choices.routed_experts"}
"""Keys of vLLM's replies that are always null there for what we do."""
SENT_TOO = {"choices.message.reasoning_content"}
"""Half of the clients look for thinking under this name."""
FROM_THE_MODEL = {"tool_calls"}
OPAQUE = {"logprobs", "usage", "prompt_logprobs"}


def recordings() -> list[dict[str, Any]]:
    if not RECORDINGS.exists():
        return []
    with RECORDINGS.open() as lines:
        records = [json.loads(line) for line in lines]
    return [
        record
        for record in records
        if record["request"]["path"] in PATHS and "json" in record["request"] and not record["id"].startswith("key/")
    ]


@functools.cache
def app_of(*served: str) -> Litestar:
    """One for all requests to a server: making it takes longer than most of them."""
    return create_app(Settings(access_log=False), FakeBackend(ids=served, context=2048))


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[httpx.AsyncClient]:
    app = app_of(*request.param["server"].split("--served-model-name ")[1].split(" --")[0].split())
    yield httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")  # type: ignore[arg-type]


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not there")
@pytest.mark.parametrize(
    ("client", "record"), [(record, record) for record in recordings()], indirect=["client"], ids=lambda r: r["id"]
)
async def test_as_vllm_or_on_purpose_not(client: httpx.AsyncClient, record: dict[str, Any]) -> None:
    name = record["id"]
    sent, theirs = record["request"], record["response"]
    headers = {
        key: value for key, value in sent["headers"].items() if key.lower() not in ("content-length", "accept")
    }
    content = json.dumps(sent["json"]).encode()
    reply = await client.post(sent["path"], content=content, headers=headers)
    ours = reply.text
    if reply.status_code == 400 and reply.json()["error"]["code"] == "unsupported_parameter":
        return
    if name in STATUS_DIFFERS:
        assert reply.status_code != theirs["status"], "no longer different: take it off the list"
        return
    assert reply.status_code == theirs["status"], ours
    if theirs["status"] >= 400:
        expected, error = json.loads(theirs["body"])["error"], json.loads(ours)["error"]
        if "validation error" not in expected["message"]:
            assert (error["message"] == expected["message"]) != (name in WORDS_DIFFER), (error, expected)
    elif theirs["body"].startswith("{"):
        assert keys(json.loads(theirs["body"])) - keys(json.loads(ours)) <= NOT_SENT
        assert keys(json.loads(ours)) - keys(json.loads(theirs["body"])) <= SENT_TOO
    elif "reasoning" not in name:
        usage = bool((sent["json"].get("stream_options") or {}).get("include_usage"))
        assert {_with_usage(shape) if usage else shape for shape in shapes(theirs["body"])} <= shapes(ours)


def keys(value: Any, prefix: str = "") -> set[str]:
    """Paths of all keys, list items taken as one."""
    if isinstance(value, list):
        return keys(value[0], prefix) if value else set()
    if not isinstance(value, dict):
        return set()
    value = {key: child for key, child in value.items() if key not in FROM_THE_MODEL}
    found = {prefix + key for key in value}
    return found.union(*(keys(child, f"{prefix}{key}.") for key, child in value.items() if key not in OPAQUE))


Shape = tuple[frozenset[str], frozenset[str]]


def shapes(stream: str) -> set[Shape]:
    """Of each chunk: its own keys and its choice's."""
    chunks = [json.loads(event[6:]) for event in stream.split("\n\n") if event.startswith("data: {")]
    return {(frozenset(chunk), frozenset(chunk["choices"][0] if chunk["choices"] else ())) for chunk in chunks}


def _with_usage(shape: Shape) -> Shape:
    """With include_usage every chunk has the key, as at OpenAI; vLLM has it in the last only."""
    return shape[0] | {"usage"}, shape[1]
