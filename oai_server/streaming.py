"""Streams of server-sent events through sse-starlette, and what happens to a request when its stream ends early.

Chunks arrive here as framed bytes (`wire.chunks`), which sse-starlette hands on untouched. A failure after the first
byte becomes an error event and `[DONE]`; a client that leaves cancels the generation at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from sse_starlette.sse import AppStatus, EventSourceResponse

from adapters.backend import ChoiceDelta, Usage
from engine.errors import EngineError
from oai_server.calls import Call
from oai_server.errors import ApiError, ClientGoneError, from_engine, internal_error
from oai_server.interrupts import Interruptible
from oai_server.wire.chunks import DONE

logger = logging.getLogger("oai_server")

# Otherwise every stream is cut half a second after SIGTERM; the drain is `oai_server.lifecycle`'s.
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
    """sse-starlette's response without its cancel scope around every chunk, which costs as much as the chunk.

    `_send_with_timeout` is private there: the version is pinned, and a test says whether it is still called.
    """

    def __init__(self, call: Call, encoder: Encoder) -> None:
        super().__init__(
            stream_events(call, encoder),
            ping=call.services.settings.sse_keep_alive_interval,
            ping_message_factory=lambda: KEEP_ALIVE,  # type: ignore[arg-type,return-value]
            sep="\n",
        )
        self._call = call

    async def _send_with_timeout(self, send: Any, message: Any) -> None:
        await send(message)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._call.close()  # also when the client left before the first event, and the iterator never ran


async def stream_events(call: Call, encoder: Encoder) -> AsyncIterator[bytes]:
    """The events of one call, from the first output to `[DONE]`. Never raises, except when it is cancelled."""
    try:
        async with Interruptible(call.services.live):
            lead, tail, count = encoder.first(), b"", 0
            async for deltas in call.source():
                call.count_output(deltas)
                chunks = lead + b"".join([encoder.delta(delta) for delta in deltas])
                lead = b""
                if call.finished:
                    tail = chunks  # leaves in one write with usage and [DONE]
                    continue
                yield chunks
                count += 1
                if count % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            yield lead + tail + encoder.end(call.usage())
    except ClientGoneError:
        return
    except ApiError as error:
        yield failure(call, error)
    except EngineError as error:
        yield failure(call, from_engine(error))
    except Exception:
        logger.exception("stream %s failed", call.record.request_id)
        yield failure(call, internal_error())


def failure(call: Call, error: ApiError) -> bytes:
    """The end of a stream that failed: the official clients raise APIError with the message and the code."""
    call.record.finish = error.code or "error"
    return b"data: " + error.body() + b"\n\n" + DONE
