"""Whole replies. Handlers return them as ASGI applications, which Litestar calls as they are."""

from __future__ import annotations

import msgspec
from litestar.types import Receive, Scope, Send


class Reply:
    """Bytes that are ready, by default JSON."""

    __slots__ = ("_body", "_headers", "_status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        headers: dict[str, str] | None = None,
        content_type: bytes = b"application/json",
    ) -> None:
        self._body = body
        self._status = status
        self._headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
        if headers:
            self._headers += [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def json_reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(msgspec.json.encode(value), status, headers)
