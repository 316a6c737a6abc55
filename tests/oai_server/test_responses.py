"""/v1/responses on the wire: items and events from the same deltas, and the whole conversation in every request."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai import OpenAI

from adapters.backend import ChatPrompt, ChoiceDelta, ToolCallDelta, Usage
from oai_server.wire.response_events import ResponseEvents
from oai_server.wire.responses import ResponsesRequest, chat_request, response_body
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "get", "parameters": {"type": "object", "properties": {}}}
CALL = [
    (ToolCallDelta(0, "call_1", "get"),),
    (ToolCallDelta(0, arguments='{"a"'),),
    (ToolCallDelta(0, arguments=": 1}"),),
]


def ask(server: LiveServer, **body: Any) -> Any:
    reply = server.post(PATH, {"input": "a b c d", **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(server: LiveServer, **body: Any) -> list[Any]:
    reply = server.post(PATH, {"input": "a b c d", "stream": True, **body})
    assert reply.status_code == 200, reply.text
    found = []
    for number, block in enumerate(reply.text.removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        found.append(event)
    return found


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ids(v) for key, v in value.items() if key not in ("id", "created_at", "call_id")}
    return [without_ids(v) for v in value] if isinstance(value, list) else value


def asked(**fields: Any) -> Any:
    return chat_request(msgspec.convert({"input": "x", **fields}, ResponsesRequest))


def test_whole_reply(server: LiveServer) -> None:
    reply = ask(server, max_output_tokens=3, metadata={"a": "b"}, instructions="s")
    assert reply["id"].startswith("resp_")
    assert (reply["object"], reply["status"], reply["model"]) == ("response", "incomplete", "fake")
    assert reply["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (reply["metadata"], reply["instructions"]) == ({"a": "b"}, "s")
    assert reply["text"] == {"format": {"type": "text"}}
    (item,) = reply["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "incomplete")
    assert item["content"][0]["type"] == "output_text"
    assert reply["usage"]["output_tokens"] == 3
    assert reply["usage"]["total_tokens"] == reply["usage"]["input_tokens"] + 3


def test_a_stream_ends_with_the_whole_reply(server: LiveServer) -> None:
    server.backend.script = Script(reasoning=["hm", " so"], texts=["x", "y"], tool_calls=CALL)
    whole = ask(server, tools=[TOOL])
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call"]
    events = stream(server, tools=[TOOL])
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.completed"
    assert without_ids(events[-1]["response"]["output"]) == without_ids(whole["output"])
    for index, item in enumerate(events[-1]["response"]["output"]):
        own = [event for event in events if event.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added"
        assert own[-1] == {**own[-1], "type": "response.output_item.done", "item": item}
        joined = "".join(event["delta"] for event in own if event["type"].endswith(".delta"))
        assert joined == (item["arguments"] if "arguments" in item else item["content"][0]["text"])


def test_a_failure_in_mid_stream_reaches_the_official_client(server: LiveServer) -> None:
    server.backend.script = Script(texts=["x"] * 4, fail_after=2, error=RuntimeError("boom"))
    reply = server.post(PATH, {"input": "a", "stream": True})
    assert "server had an error" in reply.text
    assert "boom" not in reply.text


def test_the_official_client_reads_its_events(server: LiveServer) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, _strict_response_validation=True)
    server.backend.script = Script(texts=["x", "y"], tool_calls=CALL)
    with client.responses.stream(model="fake", input="a b", tools=[{**TOOL, "strict": False}]) as events:  # type: ignore[list-item]
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert final.output_text == "xy"
    assert json.loads(final.output[1].arguments) == {"a": 1}  # type: ignore[union-attr]


def test_a_conversation_with_calls_becomes_chat_messages() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
        {"type": "function_call", "call_id": "c1", "name": "get", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "get", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
    ]
    chat = asked(input=items, instructions="s")
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "tool"]
    assistant = chat.messages[2]
    assert assistant["reasoning_content"] == "hm"
    assert [call["id"] for call in assistant["tool_calls"]] == ["c1", "c2"]


def test_fields_are_respelled() -> None:
    named = {"type": "function", "name": "get"}
    chat = asked(
        max_output_tokens=5,
        tools=[TOOL, {"type": "web_search"}],
        tool_choice=named,
        text={"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        reasoning={"effort": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        seed=3,
    )
    assert (chat.max_completion_tokens, chat.reasoning_effort, chat.seed) == (5, "low", 3)
    assert (chat.logprobs, chat.top_logprobs) == (True, 2)
    assert chat.tools == [{"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}]
    assert chat.tool_choice == {"type": "function", "function": {"name": "get"}}
    assert chat.response_format["json_schema"] == {"name": "n", "schema": {}, "strict": True}
    assert asked(tools=[{"type": "web_search"}], tool_choice="required").tool_choice is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "nonsense"}]}, "input[0].type"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"text": {"format": {"type": "nope"}}}, "text.format"),
        ({"reasoning": {"effort": "great"}}, "reasoning.effort"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"temperature": 3}, "temperature"),
        ({"input": 3}, "input"),
    ],
)
def test_errors_name_the_fields_of_this_endpoint(server: LiveServer, body: dict[str, Any], param: str) -> None:
    reply = server.post(PATH, {"input": "a", **body})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert "max_completion_tokens" not in reply.text


def test_the_prompt_is_counted_before_it_is_asked(server: LiveServer) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="x")
    counted = client.responses.input_tokens.count(input="a b c d", instructions="be brief")
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == ask(server, instructions="be brief")["usage"]["input_tokens"]
    reply = server.post(f"{PATH}/input_tokens", {"input": "a", "model": "no-such"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "model")


def test_nothing_is_stored(server: LiveServer) -> None:
    reply = server.get(f"{PATH}/{ask(server)['id']}")
    assert reply.status_code == 404
    assert reply.json()["error"]["param"] == "response_id"


def test_nothing_at_all_is_an_empty_message() -> None:
    request = msgspec.convert({"input": "x"}, ResponsesRequest)
    events = ResponseEvents(response_body(request, "resp_1", 1, "m"))
    events.delta(ChoiceDelta(0, finish_reason="stop"))
    events.end(Usage(1, 1))
    assert [item["content"][0]["text"] for item in events.response.output] == [""]


def test_allowed_tools_leave_the_others_out(server: LiveServer) -> None:
    tools = [TOOL, {**TOOL, "name": "other"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    ask(server, tools=tools, tool_choice=choice)
    prompt = server.backend.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert [tool["function"]["name"] for tool in prompt.tools] == ["other"]
    assert prompt.tool_choice == "required"
    reply = server.post(PATH, {"input": "a", "tools": [TOOL], "tool_choice": choice})
    assert reply.json()["error"]["param"] == "tool_choice"
