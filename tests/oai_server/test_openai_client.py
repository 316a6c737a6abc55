"""The official client against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from adapters.backend import ToolCallDelta
from engine.errors import EngineDeadError, EngineOverloadedError
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer, live_server

USER = [{"role": "user", "content": "a b c"}]


@pytest.fixture(scope="module")
def module_server() -> Iterator[LiveServer]:
    with live_server(api_key=("sk-test",)) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=server.url + "/v1", api_key="sk-test", max_retries=0, _strict_response_validation=True
    )


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="fake", messages=USER, max_tokens=3)  # type: ignore[call-overload]
    assert reply.choices[0].message.content == "user: a b"
    assert reply._request_id == reply.id


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model="fake", messages=USER, max_tokens=3, stream=True, stream_options={"include_usage": True}, logprobs=True
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "user: a b"
    assert chunks[-1].usage.completion_tokens == 3 and chunks[-1].choices == []


def test_helper_that_accumulates_tool_calls(server: LiveServer, client: openai.OpenAI) -> None:
    server.backend.script = Script(
        texts=["x"], tool_calls=[(ToolCallDelta(0, "call_1", "f"),), (ToolCallDelta(0, arguments='{"a": 1}'),)]
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    with client.chat.completions.stream(model="fake", messages=USER, tools=tools) as stream:  # type: ignore[arg-type]
        for _ in stream:
            pass
        call = stream.get_final_completion().choices[0].message.tool_calls
    assert call is not None and call[0].function.arguments == '{"a": 1}'


def test_completions_and_models(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="fake", prompt=["a", "b"], max_tokens=2, logprobs=1)
    assert [choice.text for choice in reply.choices] == ["aa", "bb"]
    assert [model.id for model in client.models.list()] == ["fake", "alias"]
    assert client.models.retrieve("alias").id == "alias"


def test_errors_by_class(server: LiveServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="fake", messages=[])
    assert bad.value.param == "messages" and bad.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nope", messages=USER)  # type: ignore[call-overload]
    assert missing.value.code == "model_not_found" and missing.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")
    with pytest.raises(openai.AuthenticationError) as key:
        client.with_options(api_key="wrong").models.list()
    assert key.value.code == "invalid_api_key"
    server.backend.script = Script(admission_error=EngineOverloadedError("full", 1.0))
    with pytest.raises(openai.RateLimitError):
        client.completions.create(model="fake", prompt="a")


def test_error_in_mid_stream(server: LiveServer, client: openai.OpenAI) -> None:
    server.backend.script = Script(fail_after=1, error=EngineDeadError("The engine stopped."))
    with pytest.raises(openai.APIError, match="The engine stopped") as failure:
        list(client.chat.completions.create(model="fake", messages=USER, stream=True))  # type: ignore[call-overload]
    assert failure.value.code == "engine_dead"


def test_clients_retry_what_is_worth_it(server: LiveServer, client: openai.OpenAI) -> None:
    server.backend.script = Script(admission_error=ValueError("always the same"))
    before = len(server.backend.requests)
    with pytest.raises(openai.InternalServerError):
        client.with_options(max_retries=2).completions.create(model="fake", prompt="a")
    assert len(server.backend.requests) == before + 1, "x-should-retry: false"


async def test_async_client(server: LiveServer) -> None:
    async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="sk-test") as client:
        stream = await client.chat.completions.create(model="fake", messages=USER, stream=True, max_tokens=3)  # type: ignore[call-overload]
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "user: a b"
