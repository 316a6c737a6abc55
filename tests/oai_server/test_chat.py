"""/v1/chat/completions on the wire: whole replies and the exact order of a stream's chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.backend import ChatPrompt, ToolCallDelta
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer

HELLO = [{"role": "user", "content": "a b c d e f"}]
PATH = "/v1/chat/completions"


def ask(server: LiveServer, **body: Any) -> Any:
    reply = server.post(PATH, {"messages": HELLO, "max_tokens": 3, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(server: LiveServer, **body: Any) -> list[Any]:
    reply = server.post(PATH, {"messages": HELLO, "max_tokens": 3, "stream": True, **body})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-accel-buffering"] == "no"
    events = reply.text.split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_whole_reply(server: LiveServer) -> None:
    reply = server.post(PATH, {"messages": HELLO, "max_tokens": 3})
    body = reply.json()
    assert reply.headers["x-request-id"] == body["id"]
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["model"] == "fake"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "user: a b",
                "reasoning": None,
                "reasoning_content": None,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
            },
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 7,
        "total_tokens": 10,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_an_alias_gets_the_first_name(server: LiveServer) -> None:
    assert ask(server, model="alias")["model"] == "fake"
    assert ask(server, model="")["model"] == "fake"
    assert ask(server, model=None)["model"] == "fake"


def test_stream_in_vllm_s_order(server: LiveServer) -> None:
    role, *texts, last = stream(server)
    assert role["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert role["prompt_token_ids"] is None and role["prompt_text"] is None
    assert texts[0]["choices"] == [
        {"index": 0, "delta": {"content": "user:"}, "logprobs": None, "finish_reason": None, "token_ids": None}
    ]
    assert last["choices"][0] == {
        "index": 0,
        "delta": {"content": " b"},
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": None,
        "token_ids": None,
    }
    assert "system_fingerprint" in last and "system_fingerprint" not in role
    assert all("usage" not in chunk for chunk in (role, *texts, last))
    assert len({chunk["id"] for chunk in (role, *texts, last)}) == 1


def test_stream_with_usage(server: LiveServer) -> None:
    *chunks, last = stream(server, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 3
    assert "system_fingerprint" in last


def test_continuous_usage_counts_up(server: LiveServer) -> None:
    chunks = stream(server, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 3]


def test_continuous_usage_needs_include_usage(server: LiveServer) -> None:
    assert all("usage" not in chunk for chunk in stream(server, stream_options={"continuous_usage_stats": True}))


@pytest.mark.parametrize("burst", [1, 2, 5])
def test_stream_and_whole_say_the_same(server: LiveServer, burst: int) -> None:
    server.backend.script = Script(burst=burst, reasoning=["hm", " ok"], texts=[f" {i}" for i in range(7)])
    whole = ask(server, n=2, logprobs=True, top_logprobs=2, return_token_ids=True)
    chunks = stream(server, n=2, logprobs=True, top_logprobs=2, return_token_ids=True)
    for index in range(2):
        mine = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index]
        message = whole["choices"][index]["message"]
        for key in ("content", "reasoning", "reasoning_content"):
            assert "".join(choice["delta"].get(key) or "" for choice in mine) == message[key]
        logprobs = [entry for choice in mine if choice["logprobs"] for entry in choice["logprobs"]["content"]]
        assert logprobs == whole["choices"][index]["logprobs"]["content"]
        ids = [i for choice in mine for i in choice.get("token_ids") or []]
        assert ids == whole["choices"][index]["token_ids"]
        assert mine[-1]["finish_reason"] == whole["choices"][index]["finish_reason"]


def test_tool_calls(server: LiveServer) -> None:
    server.backend.script = Script(
        texts=["ok"],
        tool_calls=[
            (ToolCallDelta(0, "call_1", "f"),),
            (ToolCallDelta(0, arguments='{"a"'), ToolCallDelta(0, arguments=": 1}")),
            (ToolCallDelta(1, "call_2", "g", "{}"),),
        ],
    )
    tools = [{"type": "function", "function": {"name": name}} for name in "fg"]
    choice = ask(server, tools=tools)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(server, tools=tools)]
    calls = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert calls == [
        [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a": 1}'}}],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}}],
    ]


def test_only_reasoning_has_no_content(server: LiveServer) -> None:
    server.backend.script = Script(reasoning=["hm"], texts=[])
    message = ask(server)["choices"][0]["message"]
    assert message["content"] is None and message["reasoning"] == message["reasoning_content"] == "hm"


def test_logprobs(server: LiveServer) -> None:
    content = ask(server, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]
    assert content["refusal"] is None
    assert content["content"][0] == {
        "token": "user:",
        "logprob": -0.5,
        "bytes": list(b"user:"),
        "top_logprobs": [
            {"token": "user:", "logprob": -0.5, "bytes": list(b"user:")},
            {"token": "user:1", "logprob": -1.5, "bytes": list(b"user:")},
        ],
    }
    shown = ask(server, logprobs=True, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in shown] == ["token_id:0", "token_id:1", "token_id:2"]


def test_extras_of_vllm(server: LiveServer) -> None:
    body = ask(server, return_token_ids=True, return_prompt_text=True, prompt_logprobs=0)
    assert body["prompt_token_ids"] == list(range(7))
    assert body["prompt_text"] == "user: a b c d e f"
    assert body["prompt_logprobs"][0] is None
    assert body["prompt_logprobs"][1] == {"1": {"logprob": -0.5, "rank": 1, "decoded_token": " a"}}
    role = stream(server, return_token_ids=True, return_prompt_text=True)[0]
    assert role["prompt_token_ids"] == list(range(7)) and role["prompt_text"] == "user: a b c d e f"


def test_echo_of_a_continued_message(server: LiveServer) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "So far"}]
    body = ask(server, messages=messages, continue_final_message=True, echo=True)
    assert body["choices"][0]["message"]["content"].startswith("So far")
    assert stream(server, messages=messages, continue_final_message=True, echo=True)[1]["choices"][0]["delta"] == {
        "content": "So far"
    }
    prompt = server.backend.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.continue_final_message and not prompt.add_generation_prompt


def test_what_the_backend_is_asked(server: LiveServer) -> None:
    ask(
        server,
        messages=[{"role": "user", "content": "x", "name": "bob", "unknown": 1}],
        max_completion_tokens=2,
        n=2,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        seed=7,
        stop=["x", "y", "x"],
        stop_token_ids=[1, 2],
        logit_bias={"5": -100, "6": 1},
        ignore_eos=True,
        min_tokens=1,
        priority=3,
        chat_template_kwargs={"enable_thinking": False},
        reasoning_effort="low",
        documents=[{"title": "t"}],
        include_reasoning=False,
    )
    request = server.backend.requests[-1]
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.messages == ({"role": "user", "content": "x", "name": "bob", "unknown": 1},)
    assert request.prompt.chat_template_kwargs == {"enable_thinking": False}
    assert request.prompt.documents == ({"title": "t"},)
    assert (request.prompt.reasoning_effort, request.prompt.include_reasoning) == ("low", False)
    params = request.params
    assert (params.max_tokens, params.n, params.temperature, params.top_p, params.top_k) == (2, 2, 0.5, 0.9, 3)
    assert (params.min_p, params.presence_penalty, params.frequency_penalty) == (0.1, 1, -1)
    assert (params.repetition_penalty, params.seed, params.stop, params.stop_token_ids) == (
        1.1,
        7,
        ("x", "y"),
        (1, 2),
    )
    assert (params.logit_bias, params.ignore_eos, params.min_tokens) == ({5: -100, 6: 1}, True, 1)
    assert request.priority == 3 and not request.stream


def test_request_ids(server: LiveServer) -> None:
    reply = server.post(PATH, {"messages": HELLO}, headers={"x-request-id": "mine-1"})
    assert reply.headers["x-request-id"] == "mine-1" and reply.json()["id"] == "chatcmpl-mine-1"
    reply = server.post(PATH, {"messages": HELLO, "request_id": "other"})
    assert reply.headers["x-request-id"] == reply.json()["id"] == "chatcmpl-other"
    same = [server.post(PATH, {"messages": HELLO}, headers={"x-request-id": "twice"}).json()["id"] for _ in "ab"]
    assert same[0] == same[1]
    ids = [request.request_id for request in server.backend.requests[-2:]]
    assert ids[0] != ids[1], "the engine's ids are its own"


def test_line_separators_never_leave_raw(server: LiveServer) -> None:
    server.backend.script = Script(texts=["a\u2028b", "\u2029", "\x85", "海\n\r\t"])
    reply = server.post(PATH, {"messages": HELLO, "stream": True})
    lines = list(reply.iter_lines())
    assert all(line.startswith("data: ") for line in lines if line)
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "a\u2028b\u2029\x85海\n\r\t"
