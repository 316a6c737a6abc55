"""The events of a streamed message. A block is open while its pieces come; another kind, or the end, closes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from adapters.backend import ChoiceDelta, ToolCallDelta, Usage
from oai_server.wire.chunks import json_bytes
from oai_server.wire.message_reply import MessageBody, MessageUsage, StopReason, stop_reason

PIECES = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""What the pieces of a block are called, and where their text stands."""


class MessageEvents:
    """Encodes one message stream. `usage`: up to date with the deltas."""

    text_frame: tuple[bytes, bytes] | None = None
    """Whether a delta opens a block is known only when it is there."""

    def __init__(self, reply_id: str, model: str, usage: Callable[[], Usage]) -> None:
        self._reply_id = reply_id
        self._model = model
        self._usage = usage
        self._started = False
        self._index = -1
        self._kind = ""
        """Of the open block; "" while none is open."""
        self._frame = (b"", b"")
        """What stands around the JSON string of a piece of the open block."""
        self._stop: tuple[StopReason, str | None] = ("end_turn", None)

    def first(self) -> bytes:
        """Nothing: what the prefix cache had is known with the first delta."""
        return b""

    def delta(self, delta: ChoiceDelta) -> bytes:
        events = b"" if self._started else self._start()
        if delta.reasoning:
            events += self._text("thinking", delta.reasoning)
        if delta.content:
            events += self._text("text", delta.content)
        for call in delta.tool_calls:
            events += self._call(call)
        if delta.finish_reason is not None:
            self._stop = stop_reason(delta)
        return events

    def end(self, usage: Usage) -> bytes:
        events = b"" if self._started else self._start()
        reason, sequence = self._stop
        events += self._close()
        events += _event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": sequence},
            usage=MessageUsage.of(usage),
        )
        return events + _event("message_stop")

    # ---- pieces

    def _start(self) -> bytes:
        self._started = True
        usage = MessageUsage.of(msgspec.structs.replace(self._usage(), completion_tokens=0, reasoning_tokens=0))
        message = MessageBody(
            id=self._reply_id, model=self._model, content=[], stop_reason=None, stop_sequence=None, usage=usage
        )
        return _event("message_start", message=message)

    def _text(self, kind: str, text: str) -> bytes:
        opened = b""
        if self._kind != kind:
            extra = {"signature": ""} if kind == "thinking" else {}
            opened = self._open(kind, {kind: "", **extra})
        return opened + self._piece(text)

    def _call(self, call: ToolCallDelta) -> bytes:
        opened = b""
        if call.id is not None:
            opened = self._open("tool_use", {"id": call.id, "name": call.name or "", "input": {}})
        return opened + (self._piece(call.arguments) if call.arguments else b"")

    def _piece(self, text: str) -> bytes:
        before, after = self._frame
        return before + json_bytes(text) + after

    # ---- blocks

    def _open(self, kind: str, own: dict[str, Any]) -> bytes:
        events = self._close()
        self._index += 1
        self._kind = kind
        delta, key = PIECES[kind]
        head = f'{{"type":"content_block_delta","index":{self._index},"delta":{{"type":"{delta}","{key}":'
        self._frame = (b"event: content_block_delta\ndata: " + head.encode(), b"}}\n\n")
        return events + _event("content_block_start", index=self._index, content_block={"type": kind, **own})

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        events = b""
        if self._kind == "thinking":  # clients keep no thinking without one, and nobody checks it here
            signature = {"type": "signature_delta", "signature": self._reply_id}
            events = _event("content_block_delta", index=self._index, delta=signature)
        self._kind = ""
        return events + _event("content_block_stop", index=self._index)


def _event(name: str, /, **fields: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + json_bytes({"type": name, **fields}) + b"\n\n"
