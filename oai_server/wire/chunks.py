"""Streamed chunks as bytes, framed for SSE. Built once a request: what repeats in every chunk is encoded once.

A chunk that carries only text, which is nearly every chunk, costs one string encoding and one concatenation; all
others are built as a dict. U+2028, U+2029 and U+0085 are escaped, since clients split lines at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from adapters.backend import Usage
from oai_server.wire.usage import UsageBody

DONE = b"data: [DONE]\n\n"

encode_json = msgspec.json.Encoder().encode


def json_bytes(value: object) -> bytes:
    """JSON without a character that anyone takes for the end of a line."""
    encoded = encode_json(value)
    return encoded if encoded.isascii() else escape_line_ends(encoded)


def escape_line_ends(encoded: bytes) -> bytes:
    """JSON with the line ends escaped that `encode_json` leaves as they are."""
    return (
        encoded.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


def event(value: object) -> bytes:
    """One SSE event."""
    return b"data: " + json_bytes(value) + b"\n\n"


class ChunkTemplate:
    """What all chunks of one reply share."""

    def __init__(
        self, *, reply_id: str, kind: str, created: int, model: str, fingerprint: str, include_usage: bool
    ) -> None:
        head = json_bytes({"id": reply_id, "object": kind, "created": created, "model": model})
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._fingerprint = json_bytes(fingerprint)
        self._include_usage = include_usage

    def around_text(self, index: int, before: str, after: str) -> tuple[bytes, bytes]:
        """What stands before and behind the text of a text-only chunk.

        `before`: JSON of the choice from behind its index to the text; `after`: from the text to the choice's end.
        """
        return self._head + f'{{"index":{index},{before}'.encode(), after.encode() + self._tail

    def choice(
        self,
        choice: Mapping[str, Any],
        *,
        usage: UsageBody | None = None,
        extra: Mapping[str, Any] | None = None,
        last: bool = False,
    ) -> bytes:
        """A chunk with one choice. `usage`: with continuous_usage_stats; `extra`: more keys beside `choices`."""
        tail = self._tail if usage is None else b'],"usage":' + json_bytes(usage) + b"}\n\n"
        more = b""
        if extra:
            more = b"," + json_bytes(extra)[1:-1]
        if last and not self._include_usage:
            more += b',"system_fingerprint":' + self._fingerprint
        return self._head + json_bytes(choice) + b"]" + more + tail[1:]

    def end(self, usage: Usage) -> bytes:
        """What follows the last choice: with include_usage its chunk, and `[DONE]`."""
        if not self._include_usage:
            return DONE
        body = json_bytes(UsageBody.of(usage))
        return self._head + b'],"usage":' + body + b',"system_fingerprint":' + self._fingerprint + b"}\n\n" + DONE
