"""Anthropic's official client against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from adapters.backend import ToolCallDelta
from engine.errors import EngineDeadError, EngineOverloadedError
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer, live_server

USER: Any = [{"role": "user", "content": "a b c"}]
TOOLS: Any = [{"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}]
CALL = [(ToolCallDelta(0, "call_1", "f"),), (ToolCallDelta(0, arguments='{"a"'), ToolCallDelta(0, arguments=": 1}"))]


@pytest.fixture(scope="module")
def module_server() -> Iterator[LiveServer]:
    with live_server(api_key=("sk-test",)) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=server.url, api_key="sk-test", max_retries=0, _strict_response_validation=True
    )


def test_a_message_and_its_count(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="fake", max_tokens=3, messages=USER)
    assert message.content[0].text == "user: a b"  # type: ignore[union-attr]
    assert message.stop_reason == "max_tokens"
    count = client.messages.count_tokens(model="fake", messages=USER)
    assert count.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_a_stream_with_thinking_and_tools(server: LiveServer, client: anthropic.Anthropic) -> None:
    server.backend.script = Script(reasoning=["h", "m"], texts=["x", "y"], tool_calls=CALL)
    with client.messages.stream(model="fake", max_tokens=50, messages=USER, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    thinking, text, call = final.content
    assert (thinking.thinking, text.text, call.input) == ("hm", "xy", {"a": 1})  # type: ignore[union-attr]
    assert thinking.signature  # type: ignore[union-attr]
    assert (final.stop_reason, final.usage.output_tokens) == ("tool_use", 6)


def test_errors_by_class(server: LiveServer, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client.messages.create(model="fake", max_tokens=3, messages=[])
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nope", max_tokens=3, messages=USER)
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(model="fake", max_tokens=3, messages=USER)
    server.backend.script = Script(admission_error=EngineOverloadedError("full", 1.0))
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(model="fake", max_tokens=3, messages=USER)


def test_an_auth_token_is_a_bearer_token(server: LiveServer) -> None:
    client = anthropic.Anthropic(base_url=server.url, api_key=None, auth_token="sk-test", max_retries=0)
    assert client.messages.create(model="fake", max_tokens=1, messages=USER).content


def test_error_in_mid_stream(server: LiveServer, client: anthropic.Anthropic) -> None:
    server.backend.script = Script(fail_after=1, error=EngineDeadError("The engine stopped."))
    with (
        pytest.raises(anthropic.APIStatusError, match="The engine stopped"),
        client.messages.stream(model="fake", max_tokens=8, messages=USER) as stream,
    ):
        list(stream)


async def test_async_client(server: LiveServer) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=server.url, api_key="sk-test") as client,
        client.messages.stream(model="fake", max_tokens=3, messages=USER) as stream,
    ):
        assert "".join([text async for text in stream.text_stream]) == "user: a b"
