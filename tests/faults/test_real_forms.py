"""kill -9 of the engine under every form of request at once, with the bundled model: the replies are the same."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import httpx

from tests.faults.test_http_processes import client, gauge
from tests.support.fault_backend import until
from tests.support.fault_tree import descendants
from tests.support.server_process import demo_process

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 10, "maxItems": 15},
    },
    "required": ["name", "items"],
    "additionalProperties": False,
}
QUERY = {"type": "object", "properties": {"query": {"type": "string", "minLength": 30, "maxLength": 50}}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {**QUERY, "required": ["query"]}}}
NAMED = {"type": "function", "function": {"name": "look_up"}}
STORY = [{"role": "user", "content": "Tell me a long story about the sea."}]
TEXTS: list[dict[str, Any]] = [
    {"n": 3, "seed": 9, "temperature": 0.9},
    {"echo": True, "logprobs": 2},
    {"prompt_logprobs": 2},
    {"presence_penalty": 1.5, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
    {"min_tokens": 50, "ignore_eos": False},
    {"logit_bias": {"5": 5, "100": -100}, "bad_words": ["the", "sea"]},
    {"allowed_token_ids": list(range(100, 400))},
    {"stop": ["and"], "include_stop_str_in_output": True},
    {"top_k": 5, "top_p": 0.8, "min_p": 0.05, "seed": 3, "temperature": 1.3},
    {"guided_regex": "([a-z]{3} ){12}[a-z]{3}", "max_tokens": 100},
    {"guided_json": SCHEMA, "max_tokens": 150},
    {"prompt": ["a", "b"], "n": 2, "seed": 4, "temperature": 1},
    {"truncate_prompt_tokens": 2},
]
CHATS: list[dict[str, Any]] = [
    {"logprobs": True, "top_logprobs": 3},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": SCHEMA}}},
    {"tools": [TOOL], "tool_choice": "required"},
    {"tools": [TOOL], "tool_choice": NAMED},
    {"messages": [*STORY, {"role": "assistant", "content": "It was"}], "continue_final_message": True},
]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    *[("/v1/completions", {"prompt": "Once upon a time", "ignore_eos": True, **text}) for text in TEXTS],
    *[("/v1/chat/completions", {"messages": STORY, **chat}) for chat in CHATS],
    ("/v1/messages", {"messages": STORY}),
    ("/v1/responses", {"input": "Tell me a story.", "max_output_tokens": 60}),
]
FRESH = frozenset(
    {"id", "created", "created_at", "completed_at", "call_id", "item_id", "response_id", "usage", "cached_tokens"}
)
"""What differs between any two replies. Tokens that were computed before a death are not taken from the cache."""


async def reply(http: httpx.AsyncClient, url: str, path: str, body: dict[str, Any], *, stream: bool) -> list[Any]:
    """The whole reply, or the pieces of a stream put together: how it is cut depends on the time."""
    full = {"max_tokens": 60, "temperature": 0, **body, "stream": stream}
    answer = await http.post(url + path, json=full)
    assert answer.status_code == 200, answer.text
    if not stream:
        return [said(answer.json())]
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert events and not any(event.get("error") for event in events), answer.text[-500:]
    pieces: dict[Any, list[str]] = {}
    for event in events:
        for place in event.get("choices", [event]):
            delta = place.get("delta") or place
            if isinstance(delta, str):
                pieces.setdefault(event["type"], []).append(delta)
                continue
            calls = [call["function"].get("arguments") or "" for call in delta.get("tool_calls") or []]
            texts = [delta.get(name) or "" for name in ("content", "text", "thinking", "reasoning")]
            plain = [text for text in [*texts, *calls] if isinstance(text, str)]
            pieces.setdefault(place.get("index"), []).extend([*plain, place.get("finish_reason") or ""])
    return [{str(index): "".join(texts) for index, texts in pieces.items()}]


def said(value: Any) -> Any:
    """Without what is fresh in each reply, and without numbers that depend on the batch in their last digits."""
    if isinstance(value, dict):
        return {key: said(child) for key, child in value.items() if key not in FRESH}
    if isinstance(value, list):
        return [said(child) for child in value]
    return None if isinstance(value, float) else value


ASKED = [
    *[(*request, False) for request in REQUESTS],
    *[(*request, True) for request in REQUESTS if "prompt_logprobs" not in request[1]],
]


async def test_replies_of_every_form_are_the_same() -> None:
    # float32: with matrix units torch takes the long steps of a bfloat16 model, and rounds them in its own way.
    with demo_process("--max-model-len", "512", "--dtype", "float32", "--no-access-log") as (pid, url):

        def engine_pid() -> int:
            return next(pid for pid, command in descendants(pid).items() if "engine.process.server" in command)

        async def ask_all(http: httpx.AsyncClient) -> list[list[Any]]:
            replies = (reply(http, url, path, body, stream=stream) for path, body, stream in ASKED)
            return await asyncio.gather(*replies)

        async with client() as http:
            calm = await ask_all(http)
            before = gauge(url, "vllm:generation_tokens_total")
            stormy = asyncio.create_task(ask_all(http))
            await until(lambda: gauge(url, "vllm:generation_tokens_total") > before + 300)
            first = engine_pid()
            os.kill(first, signal.SIGKILL)
            for asked, right, got in zip(ASKED, calm, await stormy, strict=True):
                assert got == right, asked
        assert engine_pid() != first
        await until(lambda: gauge(url, "oai_server:kv_blocks_used") == 0)
