"""LangChain's ChatOpenAI and OpenAI, pointed here by base_url."""

from __future__ import annotations

import pytest

langchain_openai = pytest.importorskip("langchain_openai")


def test_chat_model(base_url: str, api_key: str, model: str) -> None:
    chat = langchain_openai.ChatOpenAI(base_url=f"{base_url}/v1", api_key=api_key, model=model, temperature=0)
    reply = chat.invoke([("system", "Be brief."), ("human", "Hello! Who are you?")], max_tokens=24)
    assert reply.content
    assert reply.usage_metadata["output_tokens"] > 0
    streamed = "".join(
        chunk.content
        for chunk in chat.stream([("system", "Be brief."), ("human", "Hello! Who are you?")], max_tokens=24)
    )
    assert streamed == reply.content


def test_responses_api(base_url: str, api_key: str, model: str) -> None:
    options = {"base_url": f"{base_url}/v1", "api_key": api_key, "model": model, "temperature": 0}
    chat = langchain_openai.ChatOpenAI(**options, use_responses_api=True, max_tokens=24)
    reply = chat.invoke("Hello! Who are you?")
    assert reply.text
    assert "".join(chunk.text for chunk in chat.stream("Hello! Who are you?")) == reply.text


def test_bound_tools(base_url: str, api_key: str, model: str) -> None:
    from langchain_core.tools import tool

    @tool
    def get_weather(city: str) -> str:
        """Current weather of a city."""
        return f"It is sunny in {city}."

    chat = langchain_openai.ChatOpenAI(base_url=f"{base_url}/v1", api_key=api_key, model=model, temperature=0)
    reply = chat.bind_tools([get_weather]).invoke("What is the weather in Paris?", max_tokens=120)
    for call in reply.tool_calls:
        assert call["name"] == "get_weather"
        assert set(call["args"]) == {"city"}


def test_text_model(base_url: str, api_key: str, model: str) -> None:
    llm = langchain_openai.OpenAI(
        base_url=f"{base_url}/v1", api_key=api_key, model=model, temperature=0, max_tokens=8
    )
    assert isinstance(llm.invoke("Once upon a time"), str)
