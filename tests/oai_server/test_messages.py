"""/v1/messages: a conversation in blocks becomes a chat request, and its reply becomes blocks and events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.backend import ChatPrompt, ChoiceDelta, ToolCallDelta, Usage
from adapters.chat_templates import ChatTemplate
from oai_server.settings import Settings
from oai_server.wire.chat import ChatRequest
from oai_server.wire.message_events import MessageEvents
from oai_server.wire.message_reply import message_body
from oai_server.wire.messages import CountTokensRequest, MessagesRequest, chat_request
from oai_server.wire.validate_chat import chat_prompt
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer
from tests.support.qwen_data import qwen_template, qwen_tokenizer

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
RECORDINGS = Path(__file__).parents[3] / "shared" / "spec" / "vllm_recordings.jsonl"
USER = {"role": "user", "content": "a b c d"}
TOOL = {"name": "get", "description": "d", "input_schema": {"type": "object", "properties": {}}}
CALL = [
    (ToolCallDelta(0, "call_1", "get"),),
    (ToolCallDelta(0, arguments='{"a"'),),
    (ToolCallDelta(0, arguments=": 1}"), ToolCallDelta(1, "call_2", "get")),
]


def ask(server: LiveServer, **body: Any) -> Any:
    reply = server.post(PATH, {"messages": [USER], "max_tokens": 8, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(server: LiveServer, **body: Any) -> list[Any]:
    reply = server.post(PATH, {"messages": [USER], "max_tokens": 8, "stream": True, **body})
    assert reply.status_code == 200, reply.text
    return events_of(reply.text)


def events_of(text: str) -> list[Any]:
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def accumulated(events: list[Any]) -> Any:
    """The message that the events tell of, as a client puts it together; checks their order."""
    message: Any = None
    partial = ""
    for event in events:
        kind = event["type"]
        if kind == "message_start":
            message = event["message"]
            assert (message["content"], message["stop_reason"]) == ([], None)
        elif kind == "content_block_start":
            assert event["index"] == len(message["content"])
            message["content"].append(event["content_block"])
            partial = ""
        elif kind == "content_block_delta":
            assert event["index"] == len(message["content"]) - 1
            delta = dict(event["delta"])
            piece_kind = delta.pop("type").removesuffix("_delta")
            ((key, piece),) = delta.items()
            block = message["content"][-1]
            if piece_kind == "input_json":
                assert block["type"] == "tool_use"
                partial += piece
                block["input"] = {"so far": partial}
            else:
                assert block["type"] == ("thinking" if piece_kind == "signature" else piece_kind)
                block[key] += piece
        elif kind == "content_block_stop":
            assert event["index"] == len(message["content"]) - 1
            if partial:
                message["content"][-1]["input"] = json.loads(partial)
        elif kind == "message_delta":
            message |= event["delta"]
            message["usage"] = event["usage"]
    assert [event["type"] for event in events][-2:] == ["message_delta", "message_stop"]
    starts = sum(event["type"] == "content_block_start" for event in events)
    assert starts == sum(event["type"] == "content_block_stop" for event in events)
    return message


def without_ids(message: Any) -> Any:
    content = [{key: v for key, v in block.items() if key != "signature"} for block in message["content"]]
    return {**message, "id": "", "content": content}


def asked(**fields: Any) -> ChatRequest:
    body = {"max_tokens": 5, "messages": [USER], **fields}
    return chat_request(msgspec.convert(body, MessagesRequest))


# ---- replies


def test_whole_reply(server: LiveServer) -> None:
    reply = ask(server, max_tokens=3, metadata={"user_id": "u"}, system="s")
    assert reply["id"].startswith("msg_")
    assert (reply["type"], reply["role"], reply["model"]) == ("message", "assistant", "fake")
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("max_tokens", None)
    (block,) = reply["content"]
    assert block == {"type": "text", "text": "system: s user:"}
    usage = reply["usage"]
    assert (usage["output_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (
        3,
        1,
        0,
    )
    counted = server.post(COUNT, {"messages": [USER], "system": "s"}).json()
    total = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert counted == {"input_tokens": total, "context_management": {"original_input_tokens": total}}


@pytest.mark.parametrize("burst", [1, 3, 100])
def test_a_stream_tells_of_the_same_message(server: LiveServer, burst: int) -> None:
    script = Script(reasoning=["hm", " so"], texts=["x", "\u2028y", ""], tool_calls=CALL, burst=burst)
    server.backend.script = script
    whole = ask(server, tools=[TOOL])
    kinds = [block["type"] for block in whole["content"]]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert [block["input"] for block in whole["content"][2:]] == [{"a": 1}, {}]
    assert whole["stop_reason"] == "tool_use"
    assert all(block["signature"] for block in whole["content"] if block["type"] == "thinking")
    events = stream(server, tools=[TOOL])
    assert events[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert without_ids(accumulated(events)) == without_ids(whole)


def test_text_behind_a_call_is_a_block_of_its_own() -> None:
    events = MessageEvents("msg_1", "m", lambda: Usage(2, 1))
    deltas = [
        ChoiceDelta(0, content="a"),
        ChoiceDelta(0, tool_calls=(ToolCallDelta(0, "c", "f"),)),
        ChoiceDelta(0, content="b"),
        ChoiceDelta(0, finish_reason="stop", stop_reason="END"),
    ]
    sent = events.first() + b"".join(map(events.delta, deltas)) + events.end(Usage(2, 3))
    message = accumulated(events_of(sent.decode()))
    assert [block["type"] for block in message["content"]] == ["text", "tool_use", "text"]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


def test_nothing_at_all_is_no_block() -> None:
    events = MessageEvents("msg_1", "m", lambda: Usage(2, 0))
    message = accumulated(events_of(events.end(Usage(2, 0)).decode()))
    assert (message["content"], message["stop_reason"]) == ([], "end_turn")
    whole = message_body("msg_1", "m", ChoiceDelta(0, finish_reason="stop"), Usage(2, 0))
    assert json.loads(msgspec.json.encode(whole)) == message


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (ChoiceDelta(0, finish_reason="stop"), ("end_turn", None)),
        (ChoiceDelta(0, finish_reason="stop", stop_reason=7), ("end_turn", None)),
        (ChoiceDelta(0, finish_reason="stop", stop_reason="x"), ("stop_sequence", "x")),
        (ChoiceDelta(0, finish_reason="length"), ("max_tokens", None)),
        (ChoiceDelta(0, finish_reason="tool_calls"), ("tool_use", None)),
    ],
)
def test_stop_reasons(delta: ChoiceDelta, expected: tuple[str, str | None]) -> None:
    body = message_body("msg_1", "m", delta, Usage(1, 1))
    assert (body.stop_reason, body.stop_sequence) == expected


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "3", "[" * 5000])
def test_an_input_is_an_object_whatever_the_model_wrote(arguments: str) -> None:
    calls = (ToolCallDelta(0, "c", "f"), ToolCallDelta(0, arguments=arguments))
    (block,) = message_body("msg_1", "m", ChoiceDelta(0, tool_calls=calls), Usage(1, 1)).content
    assert set(block["input"]) == {"arguments"}


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not there")
@pytest.mark.parametrize("name", ["messages_basic", "messages_count_tokens"])
def test_replies_have_the_keys_of_vllms(server: LiveServer, name: str) -> None:
    recorded = next(r for r in map(json.loads, RECORDINGS.open()) if r["id"] == f"plain/{name}")
    reply = server.post(recorded["request"]["path"], {**recorded["request"]["json"], "model": "fake"})
    theirs, ours = json.loads(recorded["response"]["body"]), reply.json()
    assert reply.status_code == recorded["response"]["status"]
    assert set(theirs) <= set(ours)
    assert {type(theirs[key]) for key in theirs} == {type(ours[key]) for key in theirs}
    assert set(theirs.get("usage", ())) <= set(ours.get("usage", ()))


# ---- requests


def test_a_conversation_with_calls_becomes_chat_messages() -> None:
    chat = asked(
        system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "let me see"},
                    {"type": "tool_use", "id": "c1", "name": "get", "input": {"a": 1}},
                    {"type": "tool_use", "id": "c2", "name": "get", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "c2",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "way"}],
                    },
                    {"type": "text", "text": "go on"},
                ],
            },
            {"role": "system", "content": "stay brief"},
        ],
    )
    system, user, assistant, first, second, rest, reminder = chat.messages
    assert system == {"role": "system", "content": "s"}
    assert user["content"] == [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]
    assert (assistant["reasoning_content"], assistant["content"]) == ("hm", "let me see")
    assert [(call["id"], call["function"]["arguments"]) for call in assistant["tool_calls"]] == [
        ("c1", {"a": 1}),
        ("c2", {}),
    ]
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "1"}
    assert second == {"role": "tool", "tool_call_id": "c2", "content": "Error: no\nway"}
    assert rest == {"role": "user", "content": "go on"}
    assert reminder == {"role": "system", "content": "stay brief"}
    assert chat.continue_final_message is False


def test_what_differs_in_every_request_is_left_out_of_the_prompt() -> None:
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=fa690;"}
    assert asked(system=[billing, {"type": "text", "text": "s"}]).messages[0]["content"] == "s"


@pytest.mark.parametrize("name", ["qwen2.5-instruct", "qwen3"])
def test_an_agents_next_prompt_begins_with_its_last_one(name: str) -> None:
    """Or else the prefix cache is of no use to Claude Code, which sends system messages between the turns."""
    template = ChatTemplate(qwen_template(name), qwen_tokenizer(name.removesuffix("-instruct")))

    def rendered(number: int, *messages: dict[str, Any]) -> tuple[int, ...]:
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cch={number};"}
        chat = asked(system=[billing, {"type": "text", "text": "s"}], messages=list(messages), tools=[TOOL])
        return template.render(chat_prompt(chat, Settings())).token_ids

    call = {"type": "tool_use", "id": "c", "name": "get", "input": {"a": 1}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    turns = [
        (USER, {"role": "system", "content": "agents: none"}),
        (
            {"role": "assistant", "content": [thought, {"type": "text", "text": "so"}, call]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "1"}]},
            {"role": "system", "content": "99 tokens left"},
        ),
    ]
    first, second = rendered(1, *turns[0]), rendered(2, *turns[0], *turns[1])
    assert second[: len(first)] == first


def test_a_last_assistant_message_is_continued() -> None:
    prefill = {"role": "assistant", "content": "I am"}
    assert asked(messages=[USER, prefill]).continue_final_message is True
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}
    assert asked(messages=[USER, call]).continue_final_message is False


def test_fields_are_respelled() -> None:
    chat = asked(
        max_tokens=5,
        stop_sequences=["x"],
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        tools=[{"type": "web_search_20250305", "name": "web_search"}, {**TOOL, "type": "custom", "strict": True}],
        tool_choice={"type": "tool", "name": "get", "disable_parallel_tool_use": True},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        thinking={"type": "enabled", "budget_tokens": 1024},
        chat_template_kwargs={"a": 1},
        seed=3,
    )
    assert (chat.max_tokens, chat.stop, chat.temperature, chat.top_p, chat.top_k) == (5, ["x"], 0.5, 0.9, 3)
    function = {"name": "get", "description": "d", "strict": True, "parameters": TOOL["input_schema"]}
    assert chat.tools == [{"type": "function", "function": function}]
    assert chat.tool_choice == {"type": "function", "function": {"name": "get"}}
    assert (chat.parallel_tool_calls, chat.reasoning_effort, chat.seed) == (False, "low", 3)
    assert chat.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": {"type": "object"}},
    }
    assert chat.chat_template_kwargs == {"enable_thinking": True, "a": 1}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [({"type": "auto"}, "auto"), ({"type": "any"}, "required"), ({"type": "none"}, "none"), (None, None)],
)
def test_tool_choices(choice: dict[str, str] | None, expected: str | None) -> None:
    assert asked(tools=[TOOL], tool_choice=choice).tool_choice == expected
    assert asked(tools=[{"type": "web_search_1", "name": "w"}], tool_choice=choice).tool_choice is None


@pytest.mark.parametrize(("kind", "switch"), [("enabled", True), ("adaptive", True), ("disabled", False)])
def test_thinking_is_the_templates_switch(server: LiveServer, kind: str, switch: bool) -> None:
    ask(server, thinking={"type": kind})
    prompt = server.backend.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.chat_template_kwargs == {"enable_thinking": switch}
    ask(server)
    assert server.backend.requests[-1].prompt.chat_template_kwargs == {}  # type: ignore[union-attr]


def test_counting_needs_no_max_tokens() -> None:
    chat = chat_request(msgspec.convert({"messages": [USER], "tools": [TOOL]}, CountTokensRequest))
    assert chat.max_tokens is None and chat.tools
