"""From a checked wire request to the backend and back to an answer; shared by all routes that generate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
from litestar.types import ASGIApp

from adapters.backend import ChoiceDelta, GenerationParams, GenerationRequest, Prompt
from engine.errors import RequestError
from oai_server.calls import Call, admit
from oai_server.errors import ApiError, from_engine
from oai_server.ids import fresh_hex
from oai_server.interrupts import Interruptible
from oai_server.replies import json_reply
from oai_server.services import Services
from oai_server.streaming import Encoder, TokenStream
from oai_server.wire.chunks import ChunkTemplate
from oai_server.wire.decoding import Incoming
from oai_server.wire.sampling import SamplingFields


def generation_request(
    request: Incoming, body: SamplingFields, prompt: Prompt, params: GenerationParams
) -> GenerationRequest:
    """The engine's id is the reply's with a random end: a client may send the same X-Request-Id twice."""
    record = request.record
    return GenerationRequest(
        request_id=f"{record.reply_id}-{fresh_hex(4)}",
        prompt=prompt,
        params=params,
        stream=bool(body.stream),
        priority=body.priority or 0,
        cache_salt=f"{record.key}:{body.cache_salt or ''}" if record.key or body.cache_salt else "",
        deadline_s=request.services.settings.request_timeout or None,
    )


async def answer(
    request: Incoming,
    asked: Sequence[GenerationRequest],
    *,
    encoder: Callable[[Call], Encoder],
    reply: Callable[[Call, list[ChoiceDelta]], msgspec.Struct],
    stream: type[TokenStream] = TokenStream,
) -> ASGIApp:
    """Admits all of `asked` or none, then a `stream` in the words of `encoder`, or the whole `reply`.

    The client's departure and the drain end it. Raises ApiError and what `Backend.generate` raises.
    """
    services, record = request.services, request.record
    record.model = services.backend.card.ids[0]
    async with Interruptible(services.live, request.scope, request.receive) as running:
        call = await admit(services, record, asked)
        if asked[0].stream:
            return stream(call, encoder(call))
        try:
            deltas = await call.whole()
        finally:
            call.failed |= running.ends_with_error
            call.close()
    return json_reply(reply(call, deltas))


def wants_usage(services: Services, body: SamplingFields) -> bool:
    """Whether a stream ends with its usage."""
    options = body.stream_options
    return services.settings.enable_force_include_usage or bool(options and options.include_usage)


def wants_continuous_usage(services: Services, body: SamplingFields) -> bool:
    """Whether every chunk has the usage so far."""
    options = body.stream_options
    return bool(options and options.continuous_usage_stats) and wants_usage(services, body)


def tokens_as_ids(services: Services, body: SamplingFields) -> bool:
    asked = body.return_tokens_as_token_ids
    return services.settings.return_tokens_as_token_ids if asked is None else asked


def chunk_template(body: SamplingFields, call: Call, kind: str) -> ChunkTemplate:
    return ChunkTemplate(
        reply_id=call.record.reply_id,
        kind=kind,
        created=int(time.time()),
        model=call.record.model,
        fingerprint=call.services.fingerprint,
        include_usage=wants_usage(call.services, body),
    )


@contextlib.contextmanager
def renamed_errors(own: Callable[[ApiError], ApiError]) -> Iterator[None]:
    """For requests that are said as chats: `own` gives an error the field names of the client's request."""
    try:
        yield
    except ApiError as error:
        raise own(error) from None
    except RequestError as error:
        raise own(from_engine(error)) from None
