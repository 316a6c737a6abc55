"""The output items of a response and the events that tell of them, both from the same deltas.

An item is open while its pieces come; a piece of another kind, or the end, closes it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.backend import ChoiceDelta, ToolCallDelta, Usage
from oai_server.ids import fresh_hex
from oai_server.wire.chunks import json_bytes
from oai_server.wire.logprobs import chat_logprobs
from oai_server.wire.responses import InputTokensDetails, OutputTokensDetails, ResponseBody, ResponseUsage

TEXT_EVENTS = {"message": "response.output_text", "reasoning": "response.reasoning_text"}
PREFIXES = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}


class ResponseEvents:
    """Encodes one response stream; `response` is the reply as far as it has come."""

    text_frame: tuple[bytes, bytes] | None = None
    """Events are numbered: none of them repeats."""

    def __init__(self, response: ResponseBody, *, logprobs: bool = False) -> None:
        self.response = response
        self._wants_logprobs = logprobs
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._kind = ""
        """Of the open item, which is the last one; "" while none is open."""
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []
        self._cut = False

    def first(self) -> bytes:
        return self._event("response.created", response=self.response) + self._event(
            "response.in_progress", response=self.response
        )

    def delta(self, delta: ChoiceDelta) -> bytes:
        events = []
        if delta.reasoning:
            events.append(self._text("reasoning", delta.reasoning, {}))
        if delta.content:
            shown = chat_logprobs(delta.logprobs).content if self._wants_logprobs else []
            self._logprobs += shown
            events.append(self._text("message", delta.content, {"logprobs": shown}))
        events += [self._call(call) for call in delta.tool_calls]
        self._cut = delta.finish_reason == "length"
        return b"".join(events)

    def end(self, usage: Usage) -> bytes:
        """Closes what is open; afterwards `response` is whole."""
        events = b"" if self._items else self._open("message", {"role": "assistant", "content": []})
        events += self._close("incomplete" if self._cut else "completed")
        self.response = msgspec.structs.replace(
            self.response,
            status="incomplete" if self._cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if self._cut else None,
            output=self._items,
            usage=ResponseUsage(
                usage.prompt_tokens,
                InputTokensDetails(usage.cached_tokens),
                usage.completion_tokens,
                OutputTokensDetails(usage.reasoning_tokens),
                usage.prompt_tokens + usage.completion_tokens,
            ),
        )
        return events + self._event(f"response.{self.response.status}", response=self.response)

    # ---- pieces

    def _text(self, kind: str, text: str, extra: dict[str, Any]) -> bytes:
        events = b""
        if self._kind != kind:
            own: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
            events = self._open(kind, {**own, "content": []})
        self._pieces.append(text)
        return events + self._event(f"{TEXT_EVENTS[kind]}.delta", **self._place(part=True), delta=text, **extra)

    def _call(self, call: ToolCallDelta) -> bytes:
        events = b""
        if call.id is not None:
            events = self._open("function_call", {"call_id": call.id, "name": call.name or "", "arguments": ""})
        if call.arguments:
            self._pieces.append(call.arguments)
            place = self._place()
            events += self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        return events

    # ---- items

    def _open(self, kind: str, own: dict[str, Any]) -> bytes:
        events = self._close("completed")
        item = {"id": PREFIXES[kind] + fresh_hex(12), "type": kind, "status": "in_progress", **own}
        self._items.append(item)
        self._kind = kind
        events += self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)
        if kind in TEXT_EVENTS:
            part = self._part("")
            events += self._event("response.content_part.added", **self._place(part=True), part=part)
        return events

    def _close(self, status: str) -> bytes:
        if not self._kind:
            return b""
        item, kind, text = self._items[-1], self._kind, "".join(self._pieces)
        if kind == "function_call":
            item = {**item, "arguments": text}
            place = {**self._place(), "name": item["name"]}
            events = self._event("response.function_call_arguments.done", **place, arguments=text)
        else:
            part, place = self._part(text), self._place(part=True)
            extra = {"logprobs": self._logprobs} if kind == "message" else {}
            events = self._event(f"{TEXT_EVENTS[kind]}.done", **place, text=text, **extra)
            events += self._event("response.content_part.done", **place, part=part)
            item = {**item, "content": [part]}
        item["status"] = status
        self._items[-1] = item
        self._kind, self._pieces, self._logprobs = "", [], []
        return events + self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _part(self, text: str) -> dict[str, Any]:
        """The one part of the open item's content."""
        if self._kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}

    def _place(self, *, part: bool = False) -> dict[str, Any]:
        place = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return {**place, "content_index": 0} if part else place

    def _event(self, name: str, /, **fields: Any) -> bytes:
        body = json_bytes({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + body + b"\n\n"
