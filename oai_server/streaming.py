"""Streams of server-sent events through sse-starlette, and what happens to a request when its stream ends early.

Chunks are framed bytes (`wire.chunks`). A failure after the first byte becomes an error event and `[DONE]`; a client
that leaves cancels the generation at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from sse_starlette.sse import AppStatus, EventSourceResponse

from adapters.backend import ChoiceDelta, Usage
from engine.errors import EngineError
from oai_server.calls import Call
from oai_server.errors import ApiError, from_engine, internal_error
from oai_server.interrupts import Interruptible
from oai_server.wire.chunks import DONE

logger = logging.getLogger("oai_server")

# Otherwise every stream is cut half a second after SIGTERM; the drain is `oai_server.server`'s.
AppStatus.enable_automatic_graceful_drain = False

KEEP_ALIVE = b": keep-alive\n\n"
YIELD_EVERY = 64
"""Chunks after which a stream lets the loop turn even if its generation always has more."""


class Encoder(Protocol):
    """Turns deltas into framed events."""

    def first(self) -> bytes:
        """What goes before the first delta, in the same write."""
        ...

    def delta(self, delta: ChoiceDelta) -> bytes: ...

    def end(self, usage: Usage) -> bytes:
        """What follows the last delta, `[DONE]` included."""
        ...


class TokenStream(EventSourceResponse):
    """sse-starlette's response with a body loop of its own: its headers, keep-alive comments and disconnect watch.

    sse-starlette's loop opens a cancel scope around every chunk, which costs as much as the chunk. `_stream_response`
    is private there: the version is pinned, and a test says whether it is still what is called.
    """

    def __init__(self, call: Call, encoder: Encoder) -> None:
        super().__init__(
            iter(()),  # the body comes from `_stream_response`
            ping=call.services.settings.sse_keep_alive_interval,
            ping_message_factory=lambda: KEEP_ALIVE,  # type: ignore[arg-type,return-value]
            sep="\n",
        )
        self._call = call
        self._encoder = encoder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._call.close()

    async def _stream_response(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # The wrappers around the application are there for the start; chunks go straight to the server.
        send = self._call.record.send or send
        try:
            async with Interruptible(self._call.services.live):
                last = await self._send_deltas(send)
        except ApiError as error:
            last = self._failure(error)
        except EngineError as error:
            last = self._failure(from_engine(error))
        except Exception:
            logger.exception("stream %s failed", self._call.record.request_id)
            last = self._failure(internal_error())
        async with self._send_lock:
            self.active = False
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_deltas(self, send: Any) -> bytes:
        """Sends all but the last chunks, which it returns together with the usage chunk and `[DONE]`."""
        call = self._call
        encode = self._encoder.delta
        body = self._encoder.first()
        writes = 0
        async for deltas in call.source():
            call.count_output(deltas)
            body += encode(deltas[0]) if len(deltas) == 1 else b"".join([encode(delta) for delta in deltas])
            if call.finished:
                continue  # nothing more comes but the end of the iteration
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
            writes += 1
            if writes % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return body + self._encoder.end(call.usage())

    def _failure(self, error: ApiError) -> bytes:
        """The end of a stream that failed: the official clients raise APIError with the message and the code."""
        self._call.record.finish = error.code or "error"
        return b"data: " + error.body() + b"\n\n" + DONE
