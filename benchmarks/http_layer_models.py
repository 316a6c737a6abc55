"""Pydantic models of chat requests and replies, as servers of the field declare them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]]
    model: str | None = None
    frequency_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1
    presence_penalty: float | None = 0.0
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: str | list[str] | None = Field(default_factory=list)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = "none"
    user: str | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = Field(default_factory=list)
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True


class Delta(BaseModel):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] = Field(default_factory=list)


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: Any = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Usage(BaseModel):
    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int | None = 0


class Chunk(BaseModel):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Message(BaseModel):
    role: str
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] = Field(default_factory=list)


class Choice(BaseModel):
    index: int
    message: Message
    logprobs: Any = None
    finish_reason: str | None = "stop"
    stop_reason: int | str | None = None


class Reply(BaseModel):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


def chunk(reply_id: str, created: int, model: str, delta: Delta, reason: str | None = None) -> Chunk:
    choice = ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=reason)
    return Chunk(id=reply_id, object="chat.completion.chunk", created=created, model=model, choices=[choice])


def reply(reply_id: str, created: int, model: str, text: str, tokens: int) -> Reply:
    choice = Choice(index=0, message=Message(role="assistant", content=text), finish_reason="length")
    usage = Usage(prompt_tokens=3, total_tokens=3 + tokens, completion_tokens=tokens)
    return Reply(id=reply_id, created=created, model=model, choices=[choice], usage=usage)
