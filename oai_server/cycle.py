"""uvicorn's response with two short ways, for what nearly every message is.

A chunk of a stream is framed and written at once. A reply of known length is written with its headers in one system
call instead of two; its bytes are those that uvicorn would send. To HTTP/1.0 a stream goes without chunks, which
uvicorn would send there too: the end of the connection is its end.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

LENGTH = b"content-length"
UNCOMMON = frozenset({b"connection", b"transfer-encoding"})
"""Headers of a response that mean something to the connection: uvicorn's business."""


class LeanCycle(RequestResponseCycle):
    _start: Any = None
    """The start of a response whose body is awaited, so that both can be written together."""
    _until_close = False
    """Whether the body ends with the connection."""

    async def send(self, message: Any) -> None:
        body = message.get("body")
        more = message.get("more_body")
        if (
            more
            and body
            and self.chunked_encoding
            and not (self.flow.write_paused or self.disconnected or self.response_complete)
        ):
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        elif not self.response_started and message["type"] == "http.response.start" and self._can_wait(message):
            self.response_started = True
            self._start = message
        elif self._until_close or (not self.response_started and self._is_old(message)):
            await self._send_until_close(message)
        elif self._start is not None:
            start, self._start = self._start, None
            if body is None or more or not self._write_whole(start, body):
                self.response_started = False
                await super().send(start)
                await super().send(message)
        else:
            await super().send(message)

    def _can_wait(self, start: Any) -> bool:
        """Whether the start is that of a short reply: it says its length, and the connection goes on after it."""
        names = [name for name, _ in start["headers"]]
        return LENGTH in names and self.keep_alive and UNCOMMON.isdisjoint(names) and self.scope["method"] != "HEAD"

    def _is_old(self, message: Any) -> bool:
        """Whether a response of unknown length begins, to a client that knows no chunks."""
        return (
            self.scope.get("http_version") == "1.0"
            and message["type"] == "http.response.start"
            and LENGTH not in [name for name, _ in message["headers"]]
            and message["status"] not in (204, 304)
        )

    async def _send_until_close(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.response_complete:
            return
        if message["type"] == "http.response.start":
            self.response_started = self._until_close = True
            self.keep_alive = self.waiting_for_100_continue = False
            head = self._head(message["status"], [*message["headers"], (b"connection", b"close")])
            if not head:
                raise RuntimeError("Invalid HTTP header value.")
            self.transport.write(head)
            return
        if self.scope["method"] != "HEAD":
            self.transport.write(message.get("body", b""))
        if not message.get("more_body"):
            self.response_complete = True
            self.message_event.set()
            self.transport.close()
            self.on_response()

    def _write_whole(self, start: Any, body: bytes) -> bool:
        """Write a whole response; False, and nothing is written, if it must wait or uvicorn would not send it."""
        if self.flow.write_paused or self.disconnected:
            return False
        head = self._head(start["status"], start["headers"])
        if not head or (LENGTH, b"%d" % len(body)) not in start["headers"]:
            return False
        self.waiting_for_100_continue = False
        self.transport.write(head + body)
        self.response_complete = True
        self.message_event.set()
        self.on_response()
        return True

    def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Status line and headers; empty if one of them would be read as more than one."""
        lines = [b"%b: %b\r\n" % header for header in (*self.default_headers, *headers)]
        head = STATUS_LINE[status] + b"".join(lines)
        plain = head.count(b"\n") == head.count(b"\r") == len(lines) + 1 and b"\0" not in head
        return head + b"\r\n" if plain else b""


def install() -> None:
    """HttpToolsProtocol makes its responses of the class by this name, and has no setting for it."""
    httptools_impl.RequestResponseCycle = LeanCycle  # type: ignore[misc]
