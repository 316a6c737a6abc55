"""Anthropic's official client: whole, streaming, thinking, tools there and back, asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from compat_tests.cases import HELLO, WEATHER

MESSAGES: Any = HELLO
GREEDY = {"temperature": 0}
FUNCTION: Any = WEATHER["function"]
TOOL: Any = {
    "name": FUNCTION["name"],
    "description": FUNCTION["description"],
    "input_schema": FUNCTION["parameters"],
}
QUESTION: Any = {"role": "user", "content": "What is the weather in Oslo?"}


@pytest.fixture(scope="module")
def claude(base_url: str, api_key: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=base_url, api_key=api_key, max_retries=0, timeout=60) as session:
        yield session


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_stream_is_the_whole_message(claude: anthropic.Anthropic, model: str) -> None:
    whole = claude.messages.create(model=model, max_tokens=48, messages=MESSAGES, extra_body=GREEDY)
    with claude.messages.stream(model=model, max_tokens=48, messages=MESSAGES, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(final) == text_of(whole) != ""
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_the_count_is_the_prompts(claude: anthropic.Anthropic, model: str) -> None:
    asked: Any = {"model": model, "messages": [QUESTION], "system": "Be brief.", "tools": [TOOL]}
    usage = claude.messages.create(max_tokens=1, **asked).usage
    assert claude.messages.count_tokens(**asked).input_tokens == usage.input_tokens + (
        usage.cache_read_input_tokens or 0
    )


def test_the_prefix_cache_is_told_of(claude: anthropic.Anthropic, model: str) -> None:
    long: Any = [{"role": "user", "content": "one two three four five six seven eight nine ten " * 20}]
    first, second = [claude.messages.create(model=model, max_tokens=1, messages=long).usage for _ in range(2)]
    assert (second.cache_read_input_tokens or 0) > 0
    assert second.input_tokens + (second.cache_read_input_tokens or 0) == first.input_tokens + (
        first.cache_read_input_tokens or 0
    )


def test_stop_sequences(claude: anthropic.Anthropic, model: str) -> None:
    whole = text_of(claude.messages.create(model=model, max_tokens=32, messages=MESSAGES, extra_body=GREEDY))
    stop = whole[3:6]
    cut = claude.messages.create(
        model=model, max_tokens=32, messages=MESSAGES, stop_sequences=[stop], extra_body=GREEDY
    )
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)
    assert text_of(cut) == whole[: whole.index(stop)]


def test_thinking_is_switched_and_replayed(claude: anthropic.Anthropic, model: str) -> None:
    asked: Any = {"model": model, "max_tokens": 200, "messages": MESSAGES, "extra_body": GREEDY}
    plain = claude.messages.create(**asked, thinking={"type": "disabled"})
    assert all(block.type != "thinking" for block in plain.content)
    thought = claude.messages.create(
        **{**asked, "max_tokens": 1100}, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    replay: Any = [*MESSAGES, {"role": "assistant", "content": thought.content}, QUESTION]
    assert text_of(claude.messages.create(model=model, max_tokens=8, messages=replay))


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=str)
def test_tools_there_and_back(claude: anthropic.Anthropic, model: str, choice: Any) -> None:
    asked: Any = {"model": model, "max_tokens": 100, "tools": [TOOL], "extra_body": GREEDY}
    with claude.messages.stream(messages=[QUESTION], tool_choice=choice, **asked) as stream:
        called = stream.get_final_message()
    (call,) = [block for block in called.content if block.type == "tool_use"]
    assert (called.stop_reason, call.name) == ("tool_use", "get_weather")
    assert isinstance(call.input["city"], str)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "rain, 4 degrees"}]}
    conversation: Any = [
        QUESTION,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    assert claude.messages.create(messages=conversation, **asked).content


async def test_many_at_once_and_one_that_leaves(base_url: str, api_key: str, model: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=base_url, api_key=api_key, max_retries=0, timeout=60) as claude:

        async def ask() -> str:
            return text_of(
                await claude.messages.create(model=model, max_tokens=24, messages=MESSAGES, extra_body=GREEDY)
            )

        async with claude.messages.stream(model=model, max_tokens=1500, messages=MESSAGES) as stream:
            async for _ in stream:
                break
        assert len(set(await asyncio.gather(*[ask() for _ in range(8)]))) == 1


def test_errors_by_class(claude: anthropic.Anthropic, model: str) -> None:
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x/"}}]}]
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\]"):
        claude.messages.create(model=model, max_tokens=1, messages=image)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="no such model", max_tokens=1, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        claude.messages.create(model=model, max_tokens=1, messages=[{"role": "user", "content": "word " * 50_000}])
