"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from adapters.backend import ToolCallDelta
from oai_server.wire.logprobs import ChatLogprobs, PromptLogprobs
from oai_server.wire.sampling import SamplingFields
from oai_server.wire.usage import UsageBody

FinishReason = Literal["stop", "length", "tool_calls"]


class ChatRequest(SamplingFields, frozen=True, kw_only=True):
    messages: list[dict[str, Any]]
    """Checked by `adapters.messages`; kept as plain objects, since the template may read any of their fields."""
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    return_prompt_text: bool | None = None
    chat_template: Any = None


def finish_reason(request: ChatRequest, reason: FinishReason | None) -> FinishReason | None:
    """OpenAI's rule: a call that was asked for by name is a plain end, not news to act on."""
    return "stop" if reason == "tool_calls" and names_call(request) else reason


def names_call(request: ChatRequest) -> bool:
    """Whether `tool_choice` is one function."""
    return isinstance(request.tool_choice, dict) and request.tool_choice.get("type") != "allowed_tools"


class FunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


def tool_calls(deltas: Sequence[ToolCallDelta]) -> list[ToolCall]:
    """The calls of a whole reply, each joined from its pieces."""
    pieces: dict[int, list[str]] = {}
    for delta in deltas:
        pieces.setdefault(delta.index, []).append(delta.arguments)
    return [
        ToolCall(id=delta.id, function=FunctionCall(delta.name or "", "".join(pieces[delta.index])))
        for delta in deltas
        if delta.id is not None
    ]


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str | None
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType | None = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType | None = msgspec.UNSET
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    token_ids: list[int] | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    system_fingerprint: str
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None
    prompt_text: str | None = None
    service_tier: None = None
