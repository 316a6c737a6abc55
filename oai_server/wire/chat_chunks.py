"""chat.completion.chunk: what a delta of a choice looks like on a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from adapters.backend import ChoiceDelta, Generation, ToolCallDelta, Usage
from oai_server.wire.chunks import ChunkTemplate, json_bytes
from oai_server.wire.logprobs import chat_logprobs
from oai_server.wire.usage import UsageBody

AFTER_TEXT = '},"logprobs":null,"finish_reason":null,"token_ids":null}'
REASONING_KEYS = {
    "both": ("reasoning", "reasoning_content"),
    "reasoning": ("reasoning",),
    "reasoning_content": ("reasoning_content",),
}


class ChatChunkOptions(msgspec.Struct, frozen=True):
    choices: int = 1
    role: str = "assistant"
    echo: str = ""
    """Text that goes before each choice's own."""
    continuous_usage: bool = False
    token_ids: bool = False
    tokens_as_ids: bool = False
    prompt_text: bool = False
    reasoning_field: Literal["both", "reasoning", "reasoning_content"] = "both"
    named_call: bool = False
    """The call was asked for by name: the choice ends with "stop"."""


class ChatChunks:
    """Encodes one chat stream."""

    __slots__ = ("_around", "_around_reasoning", "_generation", "_options", "_plain", "_template", "text_frame")

    def __init__(self, template: ChunkTemplate, options: ChatChunkOptions, generation: Generation) -> None:
        self._template = template
        self._generation = generation
        self._options = options
        self._plain = not (options.token_ids or options.continuous_usage)
        self._around_reasoning: dict[int, tuple[bytes, bytes, bytes]] = {}
        self._around = [
            template.around_text(index, '"delta":{"content":', AFTER_TEXT) for index in range(options.choices)
        ]
        self.text_frame = self._around[0] if self._plain else None

    def first(self) -> bytes:
        """One chunk a choice with the role; sent together with the first output, not before it."""
        options = self._options
        extra = {
            "prompt_token_ids": self._generation.prompt_token_ids if options.token_ids else None,
            "prompt_text": self._generation.prompt_text if options.prompt_text else None,
        }
        body = UsageBody.of(self._generation.usage, 0) if options.continuous_usage else None
        deltas: list[dict[str, Any]] = [{"role": options.role, "content": ""}]
        if options.echo:
            deltas.append({"content": options.echo})
        return b"".join(
            self._template.choice(
                {"index": index, "delta": delta, "logprobs": None, "finish_reason": None},
                extra=extra if position == 0 else None,
                usage=body,
            )
            for position, delta in enumerate(deltas)
            for index in range(options.choices)
        )

    def delta(self, delta: ChoiceDelta) -> bytes:
        if self._plain and delta.finish_reason is None and not (delta.tool_calls or delta.logprobs):
            if not delta.reasoning:
                before, after = self._around[delta.index]
                return before + json_bytes(delta.content) + after
            if not delta.content:
                return self._reasoning(delta.index, delta.reasoning)
        choice: dict[str, Any] = {"index": delta.index, "delta": self._message(delta), "logprobs": None}
        if delta.logprobs:
            choice["logprobs"] = chat_logprobs(delta.logprobs, as_ids=self._options.tokens_as_ids)
        reason = delta.finish_reason
        choice["finish_reason"] = "stop" if reason == "tool_calls" and self._options.named_call else reason
        if delta.finish_reason is not None:
            choice["stop_reason"] = delta.stop_reason
        choice["token_ids"] = delta.token_ids if self._options.token_ids else None
        body = UsageBody.of_choice(self._generation.usage, delta.index) if self._options.continuous_usage else None
        return self._template.choice(choice, usage=body, last=delta.finish_reason is not None)

    def _reasoning(self, index: int, text: str) -> bytes:
        """A chunk with nothing but thinking, under one name or both."""
        around = self._around_reasoning.get(index)
        if around is None:
            first, *second = REASONING_KEYS[self._options.reasoning_field]
            before, after = self._template.around_text(index, f'"delta":{{"{first}":', AFTER_TEXT)
            around = before, f',"{second[0]}":'.encode() if second else b"", after
            self._around_reasoning[index] = around
        before, between, after = around
        encoded = json_bytes(text)
        return before + encoded + (between + encoded if between else b"") + after

    def _message(self, delta: ChoiceDelta) -> dict[str, Any]:
        message: dict[str, Any] = {}
        if delta.reasoning:
            message |= dict.fromkeys(REASONING_KEYS[self._options.reasoning_field], delta.reasoning)
        if delta.content:
            message["content"] = delta.content
        if delta.tool_calls:
            message.setdefault("content", None)
            message["tool_calls"] = _tool_calls(delta.tool_calls)
        return message

    def end(self, usage: Usage) -> bytes:
        return self._template.end(usage)


def _tool_calls(deltas: Sequence[ToolCallDelta]) -> list[dict[str, Any]]:
    """Neighbours of the same call become one entry. A header says id, name and `"arguments": ""`, never null."""
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        if delta.id is not None:
            function = {"name": delta.name, "arguments": delta.arguments}
            calls.append({"index": delta.index, "id": delta.id, "type": "function", "function": function})
        elif calls and calls[-1]["index"] == delta.index:
            calls[-1]["function"]["arguments"] += delta.arguments
        else:
            calls.append({"index": delta.index, "function": {"arguments": delta.arguments}})
    return calls
