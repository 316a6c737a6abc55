"""The reply of /v1/messages, whole, and what a stream of it shares."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from adapters.backend import ChoiceDelta, Usage
from oai_server.wire.chat import tool_calls

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class OutputTokensDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt has input_tokens + cache_read_input_tokens tokens."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails

    @classmethod
    def of(cls, usage: Usage) -> MessageUsage:
        return cls(
            input_tokens=usage.prompt_tokens - usage.cached_tokens,
            cache_read_input_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(usage.reasoning_tokens),
        )


class MessageBody(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class ContextManagement(msgspec.Struct, frozen=True):
    original_input_tokens: int


class TokenCount(msgspec.Struct, frozen=True):
    input_tokens: int
    context_management: ContextManagement


def message_body(reply_id: str, model: str, delta: ChoiceDelta, usage: Usage) -> MessageBody:
    """`delta`: the whole choice."""
    content: list[dict[str, Any]] = []
    if delta.reasoning:
        content.append({"type": "thinking", "thinking": delta.reasoning, "signature": reply_id})
    if delta.content:
        content.append({"type": "text", "text": delta.content})
    content += [
        {"type": "tool_use", "id": call.id, "name": call.function.name, "input": _input(call.function.arguments)}
        for call in tool_calls(delta.tool_calls)
    ]
    reason, sequence = stop_reason(delta)
    return MessageBody(
        id=reply_id,
        model=model,
        content=content,
        stop_reason=reason,
        stop_sequence=sequence,
        usage=MessageUsage.of(usage),
    )


def stop_reason(delta: ChoiceDelta) -> tuple[StopReason, str | None]:
    """And the stop sequence, if one ended it. `delta`: the last one."""
    if delta.finish_reason == "tool_calls":
        return "tool_use", None
    if delta.finish_reason == "length":
        return "max_tokens", None
    return ("stop_sequence", delta.stop_reason) if isinstance(delta.stop_reason, str) else ("end_turn", None)


def _input(arguments: str) -> dict[str, Any]:
    """An object, whatever the model wrote."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}
