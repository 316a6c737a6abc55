"""Plain HTTP to one server: whole replies and streams, as data that can be compared."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: Any
    """Decoded JSON of a whole reply; None for a stream or an empty body."""
    events: tuple[Any, ...] = ()
    """Decoded `data:` payloads of a stream in order; the string "[DONE]" stands for itself."""
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Endpoint:
    """One server."""

    client: httpx.Client

    def get(self, path: str) -> Reply:
        return _reply(self.client.get(path))

    def post(self, path: str, body: Any) -> Reply:
        return _reply(self.client.post(path, json=body))

    def post_raw(self, path: str, content: bytes, content_type: str) -> Reply:
        return _reply(self.client.post(path, content=content, headers={"Content-Type": content_type}))


def _reply(response: httpx.Response) -> Reply:
    headers = dict(response.headers)
    if headers.get("content-type", "").startswith("text/event-stream"):
        return Reply(response.status_code, headers, None, parse_events(response.text), response.content)
    try:
        body = response.json() if response.content else None
    except json.JSONDecodeError:
        body = response.text
    return Reply(response.status_code, headers, body, (), response.content)


def parse_events(text: str) -> tuple[Any, ...]:
    """`data:` payloads in order. Comments (keep-alive pings) are dropped, as the SSE standard says."""
    events: list[Any] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.startswith("data: "):
            payload = line.removeprefix("data: ")
            events.append(payload if payload == "[DONE]" else json.loads(payload))
    return tuple(events)
