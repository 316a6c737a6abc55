"""Bad bodies and parameters: each a 400 (or the defined answer) in the one envelope that names the field."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from engine.errors import RequestError
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {**USER, **fields}


def completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS, {"prompt": "a", **fields}


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


BAD_BYTES = {
    "B01 empty": b"",
    "B02 truncated": b'{"prompt": "a"',
    "B02 trailing": b'{"prompt": "a"} x',
    "B02 BOM": b'\xef\xbb\xbf{"prompt": "a"}',
    "B02 single quotes": b"{'prompt': 'a'}",
    "B02 bad UTF-8": b'{"prompt": "\xff\xfe"}',
    "B02 lone surrogate": b'{"prompt": "\\ud800"}',
    "B04 array": b"[]",
    "B04 null": b"null",
    "B04 number": b"1",
    "B04 string": b'"x"',
    "B08 NaN": b'{"prompt": "a", "temperature": NaN}',
    "B08 Infinity": b'{"prompt": "a", "temperature": Infinity}',
    "B08 1e999": b'{"prompt": "a", "temperature": 1e999}',
    "B09 4000 digits n": b'{"prompt": "a", "n": ' + b"9" * 4000 + b"}",
    "B09 4000 digits seed": b'{"prompt": "a", "seed": ' + b"9" * 4000 + b"}",
    "B09 4000 digits max_tokens": b'{"prompt": "a", "max_tokens": ' + b"9" * 4000 + b"}",
    "B09 9000 digits": b'{"prompt": "a", "n": ' + b"9" * 9000 + b"}",
    "deep arrays": b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"prompt": "a", "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
}

BAD_FIELDS: dict[str, tuple[tuple[str, dict[str, Any]], str | None]] = {
    "B13 n string": (chat(n="1"), "n"),
    "B13 n bool": (chat(n=True), "n"),
    "B13 stream string": (chat(stream="yes"), "stream"),
    "B13 messages object": ((CHAT, {"messages": {}}), "messages"),
    "C01 n 0": (chat(n=0), "n"),
    "C01 n -1": (completion(n=-1), "n"),
    "C01 n huge": (completion(n=10**9), "n"),
    "C03 n x prompts": (completion(n=128, prompt=["a"] * 100), "n"),
    "C04 chat 0": (chat(max_tokens=0), "max_tokens"),
    "C04 -1": (completion(max_tokens=-1), "max_tokens"),
    "C04 0 without echo": (completion(max_tokens=0), "max_tokens"),
    "C04 1e12": (chat(max_tokens=10**12), "max_tokens"),
    "C04 newer name": (chat(max_completion_tokens=0), "max_completion_tokens"),
    "C09 -0.1": (chat(temperature=-0.1), "temperature"),
    "C09 2.1": (chat(temperature=2.1), "temperature"),
    "C09 hot": (chat(temperature="hot"), "temperature"),
    "C10 0": (chat(top_p=0), "top_p"),
    "C10 1.1": (chat(top_p=1.1), "top_p"),
    "C11 -2": (chat(top_k=-2), "top_k"),
    "C11 1.5": (chat(top_k=1.5), "top_k"),
    "C12 -1": (chat(min_p=-1), "min_p"),
    "C12 2": (chat(min_p=2), "min_p"),
    "C13 2.1": (chat(presence_penalty=2.1), "presence_penalty"),
    "C13 -2.1": (chat(frequency_penalty=-2.1), "frequency_penalty"),
    "C13 0": (chat(repetition_penalty=0), "repetition_penalty"),
    "C13 1e-320": (chat(repetition_penalty=1e-320), "repetition_penalty"),
    "C13 1e38": (chat(repetition_penalty=1e38), "repetition_penalty"),
    "C14 21": (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    "C14 -1": (chat(logprobs=True, top_logprobs=-1), "top_logprobs"),
    "C15": (chat(top_logprobs=2), "top_logprobs"),
    "C16 21": (completion(logprobs=21), "logprobs"),
    "C16 -1": (completion(logprobs=-1), "logprobs"),
    "C17 -1": (completion(prompt_logprobs=-1), "prompt_logprobs"),
    "C17 vocabulary": (completion(prompt_logprobs=150_000), "prompt_logprobs"),
    "C17 stream": (completion(prompt_logprobs=1, stream=True), "prompt_logprobs"),
    "C18 2^63": (chat(seed=2**63), "seed"),
    "C19 empty": (completion(prompt=""), "prompt"),
    "C19 []": (completion(prompt=[]), "prompt"),
    "C19 [[]]": (completion(prompt=[[]]), "prompt"),
    "C19 ['']": (completion(prompt=[""]), "prompt"),
    "C19 null": (completion(prompt=None), "prompt"),
    "C19 negative id": (completion(prompt=[-1]), "prompt"),
    "C19 2^64": (completion(prompt=[2**64]), "prompt"),
    "C19 bool id": (completion(prompt=[True]), "prompt"),
    "C24 abc": (chat(logit_bias={"abc": 1}), "logit_bias"),
    "C24 1.5": (chat(logit_bias={"1.5": 1}), "logit_bias"),
    "C24 -1": (chat(logit_bias={"-1": 1}), "logit_bias"),
    "C24 2^64": (chat(logit_bias={str(2**64): 1}), "logit_bias"),
    "C24 101": (chat(logit_bias={"1": 101}), "logit_bias"),
    "C24 301 entries": (chat(logit_bias={str(i): 1 for i in range(301)}), "logit_bias"),
    "C27 5": (chat(stop=list("abcde")), "stop"),
    "C27 empty": (chat(stop=""), "stop"),
    "C27 1 MB": (chat(stop="x" * 2**20), "stop"),
    "C27 null": (chat(stop=["a", None]), "stop"),
    "C27 500 000": (chat(stop=["a"] * 500_000), "stop"),
    "stop ids": (chat(stop_token_ids=list(range(200))), "stop_token_ids"),
    "stop id negative": (chat(stop_token_ids=[-5]), "stop_token_ids"),
    "bad words": (chat(bad_words=["x"] * 50_000), "bad_words"),
    "bad word empty": (chat(bad_words=[""]), "bad_words"),
    "C29": (completion(min_tokens=5, max_tokens=2), "min_tokens"),
    "C29 negative": (completion(min_tokens=-1), "min_tokens"),
    "C30 []": (chat(allowed_token_ids=[]), "allowed_token_ids"),
    "C30 200 000": (chat(allowed_token_ids=list(range(200_000))), "allowed_token_ids"),
    "C31 mixed": (completion(prompt=["a", 5]), "prompt"),
    "C31 10 000": (completion(prompt=["a"] * 10_000), "prompt"),
    "C32 less": (completion(n=2, best_of=1), "best_of"),
    "C32 more": (completion(best_of=2), "best_of"),
    "C32 type": (completion(best_of="x"), "best_of"),
    "C33": (chat(stream_options={"include_usage": True}), "stream_options"),
    "C34 suffix": (completion(suffix="x"), "suffix"),
    "C35 2^63": (chat(priority=2**63), "priority"),
    "C35 type": (chat(priority="high"), "priority"),
    "cache_salt empty": (chat(cache_salt=""), "cache_salt"),
    "cache_salt slash": (chat(cache_salt="a/b"), "cache_salt"),
    "truncate": (completion(truncate_prompt_tokens=-2), "truncate_prompt_tokens"),
    "D01 []": ((CHAT, {"messages": []}), "messages"),
    "D01 missing": ((CHAT, {}), "messages"),
    "D01 null": ((CHAT, {"messages": None}), "messages"),
    "D01 not objects": ((CHAT, {"messages": ["hi"]}), "messages[0]"),
    "D03 too many": ((CHAT, {"messages": [{"role": "user", "content": "x"}] * 100_000}), "messages"),
    "D12 deep kwargs": (chat(chat_template_kwargs=nested(100)), "chat_template_kwargs"),
    "D14": (chat(add_generation_prompt=True, continue_final_message=True), "continue_final_message"),
    "D15 no function": (chat(tools=[{"type": "function"}]), "tools[0].function"),
    "D15 1 000": (chat(tools=[TOOL] * 1000), "tools"),
    "D15 twice": (chat(tools=[TOOL, TOOL]), "tools[1].function.name"),
    "D15 name": (chat(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools[0].function.name"),
    "D15 deep": (
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": nested(100)}}]),
        "tools[0].function.parameters",
    ),
    "D16 unknown": (chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice"),
    "D16 without tools": (chat(tool_choice="required"), "tool_choice"),
    "D16 bogus": (chat(tools=[TOOL], tool_choice="sometimes"), "tool_choice"),
    "E01": (chat(response_format={"type": "xml"}), "response_format"),
    "E01 long reason": (completion(guided_json={"type": "x" * 3000}), "guided_json"),
    "E01 number": (chat(response_format=5), "response_format"),
    "template": (chat(chat_template="{{ 1 }}"), "chat_template"),
    "effort": (chat(reasoning_effort="enormous"), "reasoning_effort"),
    "beam": (completion(use_beam_search=True), "use_beam_search"),
    "embeds": (completion(prompt_embeds="AAAA"), "prompt_embeds"),
    "generate": (("/generate", {"prompt": 5}), "prompt"),
    "generate temperature": (("/generate", {"prompt": "a", "temperature": 9}), "temperature"),
    "tokenize nothing": (("/tokenize", {}), "prompt"),
    "detokenize strings": (("/detokenize", {"tokens": ["a"]}), "tokens"),
    "detokenize negative": (("/detokenize", {"tokens": [-1]}), "tokens"),
}

ACCEPTED = {
    "B10 the last of equal keys wins": b'{"model": "nope", "model": "fake", "prompt": "a"}',
    "B07 NUL in text": b'{"prompt": "a\\u0000b"}',
    "B14 unknown fields": json.dumps({"prompt": "a", **{f"x{i}": [i] for i in range(10_000)}}).encode(),
    "B11 no model": b'{"prompt": "a"}',
    "C05 nulls are defaults": json.dumps(
        {"prompt": "a", **dict.fromkeys(("n", "temperature", "stop", "logit_bias", "stream", "seed", "echo"))}
    ).encode(),
    "C09 tiny temperature": b'{"prompt": "a", "temperature": 1e-300}',
    "C11 top_k 1e9": b'{"prompt": "a", "top_k": 1000000000}',
    "C11 top_k off": b'{"prompt": "a", "top_k": -1}',
    "C18 seed -2^63": b'{"prompt": "a", "seed": -9223372036854775808}',
    "harmless fields": json.dumps(
        {"prompt": "a", "user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "best_of": 1}
    ).encode(),
    "spaces": b' \n{"prompt": "a"}\n ',
}


def check_error(reply: httpx.Response, param: str | None) -> None:
    assert reply.status_code == 400, reply.text[:300]
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["param"] == param
    assert len(error["message"]) < 600, "a body is not echoed"
    assert (
        "Traceback" not in error["message"]
        and "/work" not in error["message"]
        and " object at 0x" not in error["message"]
    )


@pytest.mark.parametrize("name", BAD_BYTES)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/generate", "/tokenize"])
def test_bytes_that_are_no_request(server: LiveServer, path: str, name: str) -> None:
    reply = server.client.post(path, content=BAD_BYTES[name], headers={"content-type": "application/json"})
    assert reply.status_code == 400 or (
        reply.status_code == 200 and path in ("/tokenize", "/generate") and "B0" in name
    )
    if reply.status_code == 400:
        check_error(reply, reply.json()["error"]["param"])


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_field_is_refused_by_name(server: LiveServer, name: str) -> None:
    (path, body), param = BAD_FIELDS[name]
    before = len(server.backend.requests)
    check_error(server.post(path, body), param)
    assert len(server.backend.requests) == before, "refused before the backend hears of it"


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(server: LiveServer, name: str) -> None:
    reply = server.client.post(
        COMPLETIONS, content=ACCEPTED[name], headers={"content-type": "application/json; charset=UTF-8"}
    )
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("model", ["nope", "../../etc/passwd", "x" * 1_000_000, "a\nb\x1b[31m"])
def test_b12_unknown_models(server: LiveServer, model: str) -> None:
    for path, body in (chat(model=model), completion(model=model), ("/tokenize", {"prompt": "a", "model": model})):
        reply = server.post(path, body)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
        assert len(error["message"]) < 300 and "does not exist" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_backend_s_refusals_come_before_the_stream(server: LiveServer, stream: bool) -> None:
    server.backend.script = Script(admission_error=RequestError("token_id(s) [99] in logit_bias", "logit_bias"))
    check_error(server.post(*chat(stream=stream)), "logit_bias")
    server.backend.script = Script()
    reply = server.post(*completion(prompt="a " * 5000, stream=stream))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is 4096 tokens" in reply.json()["error"]["message"]


def test_c08_fifty_megabytes_do_not_stop_the_others(server: LiveServer) -> None:
    reply = server.post(*completion(prompt="x" * 30_000_000, max_tokens=1))
    assert reply.status_code in (200, 400)


def test_one_bad_prompt_of_a_batch_leaves_nothing_behind(server: LiveServer) -> None:
    reply = server.post(*completion(prompt=["a", "b", "c " * 5000], max_tokens=50))
    assert reply.status_code == 400
    server.wait_idle()


def test_vllm_s_words_where_harnesses_look_for_them(server: LiveServer) -> None:
    for (path, body), words in (
        (chat(temperature=-1), "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)"),
        (chat(top_p=0.0), "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)"),
        (chat(n=0), "n must be at least 1, got 0."),
        (chat(frequency_penalty=2.5), "frequency_penalty must be in [-2, 2], got 2.5."),
        (chat(max_tokens=-1), "max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)"),
        (chat(stop=""), "stop cannot contain an empty string."),
    ):
        assert server.post(path, body).json()["error"]["message"] == words


def test_c05_the_newer_name_wins(server: LiveServer) -> None:
    for older, newer in ((5, 2), (2, 5), (-1, 3)):
        reply = server.post(*chat(max_tokens=older, max_completion_tokens=newer))
        assert reply.json()["usage"]["completion_tokens"] == newer
