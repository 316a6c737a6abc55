"""/v1/completions, /generate, /tokenize, /v1/models on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.backend import TextPrompt, TokenPrompt
from tests.support.live_server import LiveServer

PATH = "/v1/completions"


def ask(server: LiveServer, **body: Any) -> Any:
    reply = server.post(PATH, {"prompt": "a b c", "max_tokens": 2, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(server: LiveServer, **body: Any) -> list[Any]:
    reply = server.post(PATH, {"prompt": "a b c", "max_tokens": 2, "stream": True, **body})
    lines = [line for line in reply.text.split("\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_whole_reply(server: LiveServer) -> None:
    body = ask(server)
    assert body["object"] == "text_completion" and body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {
            "index": 0,
            "text": "a b",
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
        }
    ]


def test_max_tokens_defaults_to_16(server: LiveServer) -> None:
    assert ask(server, max_tokens=None)["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "texts", "prompts"),
    [
        ("a b", ["a b"], [TextPrompt("a b")]),
        (["a b", "c"], ["a b", "cc"], [TextPrompt("a b"), TextPrompt("c")]),
        ([5, 6], [" t5 t6"], [TokenPrompt((5, 6))]),
        ([[5], [6]], [" t5 t5", " t6 t6"], [TokenPrompt((5,)), TokenPrompt((6,))]),
    ],
)
def test_four_spellings_of_prompt(server: LiveServer, prompt: Any, texts: list[str], prompts: list[Any]) -> None:
    if isinstance(prompt, list) and not isinstance(prompt[0], str):
        texts = [choice["text"] for choice in ask(server, prompt=prompt)["choices"]]
        assert len(texts) == len(prompts)
    else:
        assert [choice["text"] for choice in ask(server, prompt=prompt)["choices"]] == texts
    assert [request.prompt for request in server.backend.requests[-len(prompts) :]] == prompts


@pytest.mark.parametrize("streamed", [False, True])
def test_choices_are_prompt_major(server: LiveServer, streamed: bool) -> None:
    prompts = ["a", "b", "c"]
    if streamed:
        texts = [""] * 6
        chunks = stream(server, prompt=prompts, n=2, stream_options={"include_usage": True})
        for chunk in chunks[:-1]:
            choice = chunk["choices"][0]
            texts[choice["index"]] += choice["text"]
        usage = chunks[-1]["usage"]
    else:
        body = ask(server, prompt=prompts, n=2)
        texts = [choice["text"] for choice in body["choices"]]
        usage = body["usage"]
    assert texts == ["aa", "aa", "bb", "bb", "cc", "cc"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 12)


def test_echo_and_logprobs_as_evaluation_harnesses_read_them(server: LiveServer) -> None:
    choice = ask(server, echo=True, logprobs=1, max_tokens=1)["choices"][0]
    assert choice["text"] == "a b ca"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["a", " b", " c", "a"]
    assert logprobs["text_offset"] == [0, 1, 3, 5]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5, -0.5]
    assert logprobs["top_logprobs"] == [None, {" b": -0.5}, {" c": -0.5}, {"a": -0.5}]


def test_echo_alone(server: LiveServer) -> None:
    body = ask(server, echo=True, max_tokens=0, logprobs=0)
    choice = body["choices"][0]
    assert choice["text"] == "a b c" and choice["logprobs"]["tokens"] == ["a", " b", " c"]
    assert body["usage"]["completion_tokens"] == 0
    assert choice["finish_reason"] == "length"


def test_streamed_echo_comes_first(server: LiveServer) -> None:
    chunks = stream(server, echo=True, logprobs=1, return_token_ids=True)
    first, second = (chunk["choices"][0] for chunk in chunks)
    assert first["text"] == "a b ca" and first["prompt_token_ids"] == [0, 1, 2]
    assert second["text"] == " b" and second["prompt_token_ids"] is None
    assert first["logprobs"]["tokens"] == ["a", " b", " c", "a"]
    assert second["logprobs"]["text_offset"][0] >= 5


def test_stream_chunk(server: LiveServer) -> None:
    first, last = stream(server)
    assert first["choices"] == [
        {
            "index": 0,
            "text": "a",
            "logprobs": None,
            "finish_reason": None,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": None,
        }
    ]
    assert last["choices"][0]["finish_reason"] == "length" and "system_fingerprint" in last


def test_continuous_usage_is_per_choice(server: LiveServer) -> None:
    chunks = stream(server, n=2, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 1, 2, 2, 4]


# ---- classic


def test_generate(server: LiveServer) -> None:
    reply = server.post("/generate", {"prompt": "a b c", "max_tokens": 3, "temperature": 0.7, "stream": False})
    assert reply.json()["text"] == "a b c" and reply.json()["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("path", "flag"), [("/generate", True), ("/generate_stream", False), ("/generate_stream", None)]
)
def test_generate_stream(server: LiveServer, path: str, flag: bool | None) -> None:
    body = {"prompt": "a b c", "max_tokens": 3} | ({} if flag is None else {"stream": flag})
    lines = [line for line in server.post(path, body).text.split("\n") if line]
    assert lines.pop() == "data: [DONE]"
    assert "".join(json.loads(line[6:])["text"] for line in lines) == "a b c"


# ---- tokens, models


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_tokenize(server: LiveServer, prefix: str) -> None:
    body = server.post(prefix + "/tokenize", {"prompt": "a b", "return_token_strs": True}).json()
    assert body == {"count": 2, "max_model_len": 4096, "tokens": [0, 1], "token_strs": ["a", " b"]}
    chat = server.post(prefix + "/tokenize", {"messages": [{"role": "user", "content": "x"}]}).json()
    assert chat["count"] == 2 and chat["token_strs"] is None
    assert server.post(prefix + "/detokenize", {"tokens": [3, 4]}).json() == {"prompt": " t3 t4"}


def test_models(server: LiveServer) -> None:
    body = server.client.get("/v1/models").json()
    assert body["object"] == "list" and [model["id"] for model in body["data"]] == ["fake", "alias"]
    assert body["data"][0]["max_model_len"] == 4096
    assert server.client.get("/v1/models/alias").json() == body["data"][1]
    missing = server.client.get("/v1/models/Qwen%2FQwen3")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "path", ["/health", "/livez", "/readyz", "/ping", "/version", "/metrics", "/load", "/openapi.json"]
)
def test_head_answers_like_get(server: LiveServer, path: str) -> None:
    head, get = server.client.head(path), server.client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b"" and head.headers["content-type"] == get.headers["content-type"]
