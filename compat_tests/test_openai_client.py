"""The official client, synchronous, as its documentation shows it."""

from __future__ import annotations

import openai
import pytest

from compat_tests.cases import HELLO, WEATHER


def test_lists_and_retrieves_models(client: openai.OpenAI, model: str) -> None:
    listed = client.models.list().data
    assert listed[0].id == model
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such-model")
    assert caught.value.code == "model_not_found"


def test_chat(client: openai.OpenAI, model: str) -> None:
    reply = client.chat.completions.create(model=model, messages=HELLO, max_tokens=24, temperature=0)
    assert reply.object == "chat.completion"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason in {"stop", "length"}
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply._request_id == reply.id


def test_chat_stream_equals_the_whole_reply(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=HELLO, max_tokens=32, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=HELLO,
            max_tokens=32,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == whole.choices[0].finish_reason


def test_chat_stream_helper(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(model=model, messages=HELLO, temperature=0, stop=[" "]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.done"} <= kinds
    assert final.choices[0].finish_reason == "stop"


def test_several_choices_of_a_seeded_request_repeat(client: openai.OpenAI, model: str) -> None:
    def texts() -> list[str | None]:
        reply = client.chat.completions.create(
            model=model, messages=HELLO, n=3, seed=7, temperature=1.0, max_tokens=24
        )
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        return [choice.message.content for choice in reply.choices]

    assert texts() == texts()


def test_logprobs(client: openai.OpenAI, model: str) -> None:
    reply = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=6, temperature=0, logprobs=True, top_logprobs=4
    )
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    assert reply.usage is not None
    assert len(content) == reply.usage.completion_tokens
    for position in content:
        assert bytes(position.bytes or []).decode(errors="replace")
        assert len(position.top_logprobs) == 4
        assert position.logprob <= 0


def test_completions(client: openai.OpenAI, model: str) -> None:
    reply = client.completions.create(model=model, prompt=["Hello", "AI is"], n=2, max_tokens=8, seed=1)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    echoed = client.completions.create(
        model=model, prompt="Once upon a time", echo=True, logprobs=1, max_tokens=2, temperature=0
    )
    assert echoed.choices[0].text.startswith("Once upon a time")
    assert echoed.choices[0].logprobs is not None
    assert (echoed.choices[0].logprobs.token_logprobs or [0.0])[0] is None


def test_completion_stream(client: openai.OpenAI, model: str) -> None:
    whole = client.completions.create(model=model, prompt="AI 的未来是", max_tokens=16, temperature=0)
    parts = client.completions.create(model=model, prompt="AI 的未来是", max_tokens=16, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text


def test_tool_call_round_trip(client: openai.OpenAI, model: str) -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.chat.completions.create(
        model=model, messages=messages, tools=[WEATHER], temperature=0, max_tokens=120
    )
    calls = first.choices[0].message.tool_calls
    if not calls:
        pytest.skip("this checkpoint makes no tool call here")
    assert first.choices[0].finish_reason == "tool_calls"
    assert calls[0].function.name == "get_weather"
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": calls[0].id, "content": '{"temperature_c": 21, "sky": "clear"}'},
    ]
    second = client.chat.completions.create(
        model=model, messages=messages, tools=[WEATHER], temperature=0, max_tokens=120
    )
    assert second.choices[0].message.content


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"model": "nope"}, openai.NotFoundError, "model"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"extra_body": {"stop": [""]}}, openai.BadRequestError, "stop"),
    ],
)
def test_errors_by_class(
    client: openai.OpenAI, model: str, fields: dict[str, object], error: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": model, "messages": HELLO, "max_tokens": 4, **fields})  # type: ignore[call-overload]
    assert caught.value.param == param
    assert caught.value.request_id


def test_context_overflow_has_its_code(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length") as caught:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "word " * 200_000}])
    assert caught.value.code == "context_length_exceeded"


def test_strict_validation_of_replies(base_url: str, api_key: str, model: str) -> None:
    strict = openai.OpenAI(base_url=f"{base_url}/v1", api_key=api_key, _strict_response_validation=True)
    strict.chat.completions.create(model=model, messages=HELLO, max_tokens=4)
    for _ in strict.chat.completions.create(model=model, messages=HELLO, max_tokens=4, stream=True):
        pass
    strict.completions.create(model=model, prompt="Hi", max_tokens=4, logprobs=1)
    strict.models.list()


def test_responses(client: openai.OpenAI, model: str) -> None:
    chat = client.chat.completions.create(model=model, messages=HELLO, max_tokens=24, temperature=0)
    reply = client.responses.create(model=model, input=HELLO, max_output_tokens=24, temperature=0)  # type: ignore[arg-type]
    assert reply.output_text == chat.choices[0].message.content
    assert reply.status in {"completed", "incomplete"}
    assert reply.usage is not None
    assert reply.usage.output_tokens > 0
    with client.responses.stream(model=model, input=HELLO, max_output_tokens=24, temperature=0) as events:  # type: ignore[arg-type]
        kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == f"response.{reply.status}"
