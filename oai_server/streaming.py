"""Streams of server-sent events through sse-starlette, and what happens to a request when its stream ends early.

Chunks are framed bytes (`wire.chunks`). A failure after the first byte becomes an error event and `[DONE]`; a client
that leaves cancels the generation at once.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Any, Protocol

from sse_starlette.sse import AppStatus, EventSourceResponse

from adapters.backend import ChoiceDelta, Usage
from engine.errors import EngineError
from oai_server.calls import Call
from oai_server.errors import ApiError, ClientGoneError, internal_error
from oai_server.interrupts import Interruptible
from oai_server.wire.chunks import DONE, encode_json, escape_line_ends

logger = logging.getLogger("oai_server")

# Otherwise every stream is cut half a second after SIGTERM; the drain is `oai_server.server`'s.
AppStatus.enable_automatic_graceful_drain = False

KEEP_ALIVE = b": keep-alive\n\n"
YIELD_EVERY = 64
"""Chunks after which a stream lets the loop turn even if its generation always has more."""


class Encoder(Protocol):
    """Turns deltas into framed events."""

    text_frame: tuple[bytes, bytes] | None
    """What `delta` puts around the JSON string of a delta with nothing but text of choice 0, after its first one.
    None: no delta is that simple."""

    def first(self) -> bytes:
        """What goes before the first delta, in the same write."""
        ...

    def delta(self, delta: ChoiceDelta) -> bytes: ...

    def end(self, usage: Usage) -> bytes:
        """What follows the last delta, `[DONE]` included."""
        ...


class TokenStream(EventSourceResponse):
    """sse-starlette's response, with one task a stream instead of four, and no cancel scope around every chunk.

    What the other three tasks wait for comes as calls here: keep-alive comments from a timer, lost clients and the
    drain through `Interruptible`. The library's part is the response itself: its headers and its settings.
    """

    def __init__(self, call: Call, encoder: Encoder) -> None:
        self._source = call.source()
        super().__init__(self._source, ping=call.services.settings.sse_keep_alive_interval, sep="\n")
        self._call = call
        self._encoder = encoder
        self._ping_timer: asyncio.TimerHandle | None = None
        self._pinging: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._stream(send, Interruptible(self._call.services.live, scope, receive))
        finally:
            self._stop_pings()
            self._call.close()

    async def _stream(self, send: Any, interruptible: Interruptible) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # The wrappers around the application are there for the start; chunks go straight to the server.
        send = self._call.record.send or send
        self._schedule_ping(send)
        try:
            async with interruptible:
                # A task of its own: tokens then resume two coroutines, not the whole application's stack of them.
                last = await asyncio.get_running_loop().create_task(self._send_deltas(send))
        except ClientGoneError:
            return
        except ApiError as error:
            last = self._end_failed(error)
        except EngineError as error:
            last = self._end_failed(self._call.services.told(error))
        except Exception:
            logger.exception("stream %s failed", self._call.record.request_id)
            last = self._end_failed(internal_error())
        self._stop_pings()
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_deltas(self, send: Any) -> bytes:
        """Sends all but the last chunks, which it returns together with the usage chunk and `[DONE]`.

        Nearly every delta is a bit of text. Its whole way is written out here, on locals: with many streams the time
        goes into fetching each one's objects from memory, and so into their number.
        """
        call, encoder = self._call, self._encoder
        observe_interval = call.services.telemetry.inter_token_latency.observe
        before, after = encoder.text_frame or (b"", b"")
        body = encoder.first()
        writes = 0
        async for deltas in self._source:
            delta = deltas[0]
            if (
                writes
                and before
                and delta.finish_reason is None
                and delta.index == 0
                and len(deltas) == 1
                and not (delta.reasoning or delta.tool_calls or delta.logprobs)
            ):
                now = perf_counter()
                count = len(delta.token_ids) or 1
                observe_interval((now - call.last_s) / count, count)
                call.last_s = now
                text = encode_json(delta.content)
                body = before + (text if text.isascii() else escape_line_ends(text)) + after
            else:
                finished = call.count_output(deltas)
                body += b"".join([encoder.delta(delta) for delta in deltas])
                if finished:
                    continue  # nothing more comes but the end of the iteration
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
            writes += 1
            if writes % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return body + encoder.end(call.usage())

    def _end_failed(self, error: ApiError) -> bytes:
        self._call.failed = True
        self._call.record.finish = error.code or "error"
        return self._failure(error)

    def _failure(self, error: ApiError) -> bytes:
        """The end of a stream that failed: the official clients raise APIError with the message and the code."""
        return b"data: " + error.body() + b"\n\n" + DONE

    # ---- keep-alive comments

    def _schedule_ping(self, send: Any) -> None:
        if self._ping_interval > 0:
            loop = asyncio.get_running_loop()
            self._ping_timer = loop.call_later(self._ping_interval, self._ping_now, send)

    def _ping_now(self, send: Any) -> None:
        """Not while one waits for a reader who is behind."""
        if self._pinging is None or self._pinging.done():
            message = {"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True}
            self._pinging = asyncio.get_running_loop().create_task(send(message))
        self._schedule_ping(send)

    def _stop_pings(self) -> None:
        """A comment that still waits to be sent has not been written in part: the server waits first, then writes."""
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None
        if self._pinging is not None:
            self._pinging.cancel()
            self._pinging = None
