"""uvicorn's HTTP/1.1 connection with the limits it lacks: time and size of headers, time of bodies, open connections.

Timers are armed only while a request is incomplete after the bytes that came, so an ordinary request, which comes in
one piece, pays for none.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from oai_server import cycle
from oai_server.chunked import ChunkFraming
from oai_server.errors import ApiError
from oai_server.ids import fresh_hex
from oai_server.interrupts import ON_LOST, LostConnection
from oai_server.retry import retry_after
from oai_server.settings import Settings

HEADERS, BODY, COMPLETE = range(3)
FREE_PIECES = 4096
LEAST_PIECE_BYTES = 64
"""Average size that chunks must have where a body has more than `FREE_PIECES`: each takes time of the event loop."""
MAX_PIPELINED = 64
"""Requests that may wait behind the present one, which uvicorn does not bound; more of them are refused."""
UPGRADE = re.compile(rb"(?im)^upgrade:")


class GuardedConfig(uvicorn.Config):
    """uvicorn's configuration and ours."""

    def __init__(self, app: Any, settings: Settings, *, max_connections: int) -> None:
        super().__init__(
            app,
            http=GuardedProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(1, round(settings.keep_alive_timeout)),
            backlog=2048,
            ssl_keyfile=settings.ssl_keyfile,
            ssl_certfile=settings.ssl_certfile,
        )
        self.settings = settings
        self.max_connections = max_connections


cycle.install()


class _RefusedError(Exception):
    """Raised inside a parser callback to stop the parser."""


class GuardedProtocol(HttpToolsProtocol):
    def __init__(self, config: GuardedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._max_connections = config.max_connections
        self._max_header_bytes = config.settings.max_header_kib * 1024
        self._max_headers = config.settings.max_headers
        self._timeouts = {HEADERS: config.settings.header_timeout, BODY: config.settings.body_timeout}
        self._part = HEADERS
        self._part_timed = COMPLETE
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._refusal: ApiError | None = None
        self._on_lost = LostConnection()
        self._max_body_bytes = int(config.settings.max_body_mib * 2**20)
        self._framing: ChunkFraming | None = None
        self._num_pieces = self._num_piece_bytes = 0
        self._chunked = False
        self._pieces: list[bytes] = []
        """Of a body, as they came with the present bytes: uvicorn would copy all for each."""
        self._before = b""
        """The last bytes of the piece before, while headers are coming."""
        self._num_complete = 0
        """Requests of this connection that have come whole."""
        self._num_trailers = 0
        self._trailer_bytes = 0
        self._last_request = False
        """What came behind the present request was refused: it is not read any further."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._refuse(ApiError(503, "Too many connections.", headers=retry_after(1)))
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)
        self._on_lost.lose()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._last_request:
            return
        if self._part != BODY:
            self._header_bytes += len(data)
            if b"pgrade" in data:
                data = _without_upgrade(data)
        known, num_complete = self._framing, self._num_complete
        super().data_received(data)
        self._hand_over_body()
        if self._framing is not None:
            self._check_framing(data, begins=known is None, alone=num_complete == self._num_complete)
            if self.transport.is_closing():
                return
        if self._part == HEADERS:
            self._before = (self._before + data)[-3:]
        if self._part == HEADERS and self._header_bytes > self._max_header_bytes:
            self._refuse(_too_many_header_bytes())
        elif self._part == COMPLETE:
            self._unwatch()
        else:
            self._watch()

    # ---- parser callbacks

    def on_message_begin(self) -> None:
        self._part = HEADERS
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop_parser(ApiError(400, "Too many requests behind one that is not answered yet."))
        super().on_message_begin()
        self.scope["extensions"] = {ON_LOST: self._on_lost}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        if len(self.headers) > self._max_headers:
            self._stop_parser(self._too_many_headers())
        if self._header_bytes > self._max_header_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._max_header_bytes:
                self._stop_parser(_too_many_header_bytes())
        names = [name for name, _ in self.headers]
        if names.count(b"host") != 1 and (b"host" in names or self.parser.get_http_version() == "1.1"):
            self._stop_parser(ApiError(400, "A request has one Host header."))
        self._header_bytes = 0
        self._part = BODY
        self._chunked = b"transfer-encoding" in names
        if self._chunked:
            self._num_pieces = self._num_piece_bytes = 0
            self._framing = ChunkFraming(self._max_body_bytes)
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers are dropped: as headers they could pretend to be what a proxy in front of us has checked."""
        if self._part != BODY:
            if len(self.headers) > self._max_headers:
                self._stop_parser(self._too_many_headers())
            super().on_header(name, value)
            return
        self._num_trailers += 1
        self._trailer_bytes += len(name) + len(value) + 4
        if self._num_trailers > self._max_headers or self._trailer_bytes > self._max_header_bytes:
            self._stop_parser(_too_many_header_bytes())

    def on_body(self, body: bytes) -> None:
        if self._chunked:
            self._num_pieces += 1
            self._num_piece_bytes += len(body)
            if self._num_pieces > FREE_PIECES and self._num_piece_bytes < LEAST_PIECE_BYTES * self._num_pieces:
                self._stop_parser(ApiError(400, "The body comes in too many small chunks."))
        self._pieces.append(body)

    def _hand_over_body(self) -> None:
        if self._pieces:
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._hand_over_body()
        self._part = COMPLETE
        self._framing = None
        self._num_complete += 1
        self._before = b""
        self._num_trailers = self._trailer_bytes = 0
        super().on_message_complete()

    def _check_framing(self, data: bytes, *, begins: bool, alone: bool) -> None:
        """`begins`: the body starts in this piece; `alone`: behind the headers of the only request in it."""
        if self._framing is None or self.transport.is_closing():
            return
        if begins:
            if not alone:  # behind a pipelined request; the body's timeout is all that bounds it
                self._framing = None
                return
            data = (self._before + data).partition(b"\r\n\r\n")[2]
        if (error := self._framing.feed(data)) is not None:
            self._refuse(error)

    # ---- refusing

    def _too_many_headers(self) -> ApiError:
        return ApiError(431, f"More than {self._max_headers} headers.", headers={"connection": "close"})

    def _stop_parser(self, error: ApiError) -> None:
        self._refusal = error
        raise _RefusedError

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for whatever the parser does not accept."""
        if not self.transport.is_closing():
            self._refuse(self._refusal or ApiError(400, msg))

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application and close. A response that has begun is cut instead.

        An earlier request, which came whole, is answered first; then there is nobody to tell any more.
        """
        self._unwatch()
        if self.cycle is not None and not self.cycle.response_complete:
            if self._part != BODY:
                self._last_request = True
                self.cycle.keep_alive = False
                return
            if self.cycle.response_started:
                self.transport.close()
                return
        elif self.cycle is not None and self._part == BODY:
            self.transport.close()  # the request was answered before its body had come
            return
        body = error.body()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": f"req-{fresh_hex(12)}",
            **error.headers,
            "connection": "close",
        }
        lines = [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body]))
        self.transport.close()

    # ---- time

    def _watch(self) -> None:
        """The present part of the request must be complete in time; the clock of one part starts once."""
        if self._timer is not None and self._part_timed == self._part:
            return
        self._unwatch()
        self._part_timed = self._part
        self._timer = self.loop.call_later(self._timeouts[self._part], self._expire)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._part == HEADERS and self._header_bytes == 0:
            self.transport.close()  # connected and never said a word
        elif self._part != COMPLETE:
            what = "headers" if self._part == HEADERS else "body"
            self._refuse(ApiError(408, f"The {what} of the request did not come in time."))


def _without_upgrade(data: bytes) -> bytes:
    """The same piece with any Upgrade header under another name, so that the parser reads on behind the headers.

    Java's HTTP client offers HTTP/2 that way with every request; a server may ignore the offer (RFC 9110, 7.8).
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(b"x-grade:", head) + end + rest


def _too_many_header_bytes() -> ApiError:
    return ApiError(431, "The request's headers are too large.")
