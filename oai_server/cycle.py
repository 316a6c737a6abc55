"""uvicorn's response with two short ways, for what nearly every message is.

A chunk of a stream is framed and written at once. A reply of known length is written with its headers in one system
call instead of two; its bytes are those that uvicorn would send.
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

    def _write_whole(self, start: Any, body: bytes) -> bool:
        """Write a whole response; False, and nothing is written, if it must wait or uvicorn would not send it."""
        if self.flow.write_paused or self.disconnected:
            return False
        headers = [*self.default_headers, *start["headers"]]
        head = STATUS_LINE[start["status"]] + b"".join([b"%b: %b\r\n" % header for header in headers])
        plain = head.count(b"\n") == head.count(b"\r") == len(headers) + 1 and b"\0" not in head
        if not plain or (LENGTH, b"%d" % len(body)) not in headers:
            return False
        self.waiting_for_100_continue = False
        self.transport.write(head + b"\r\n" + body)
        self.response_complete = True
        self.message_event.set()
        self.on_response()
        return True


def install() -> None:
    """HttpToolsProtocol makes its responses of the class by this name, and has no setting for it."""
    httptools_impl.RequestResponseCycle = LeanCycle  # type: ignore[misc]
