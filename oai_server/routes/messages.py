"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, for Claude Code and Anthropic's own clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
from litestar import Response, Router
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp

from engine.errors import EngineError
from oai_server.errors import ApiError, from_engine, internal_error, logger
from oai_server.replies import Reply
from oai_server.routes.chat import checked
from oai_server.routes.posts import json_post
from oai_server.routes.requests import answer, record_of
from oai_server.services import services_of
from oai_server.streaming import TokenStream
from oai_server.wire.decoding import HttpRequest, Incoming, read_json
from oai_server.wire.message_errors import error_body, error_event
from oai_server.wire.message_events import MessageEvents
from oai_server.wire.message_reply import ContextManagement, TokenCount, message_body
from oai_server.wire.messages import CountTokensRequest, MessagesRequest, chat_request, own_error
from oai_server.wire.validate import Validator
from oai_server.wire.validate_chat import chat_prompt, check_amount

MESSAGES = msgspec.json.Decoder(MessagesRequest)
COUNT_TOKENS = msgspec.json.Decoder(CountTokensRequest)
ID_PREFIX = "msg_"


class MessageStream(TokenStream):
    """Ends with an error event of Anthropic's when it fails."""

    def _failure(self, error: ApiError) -> bytes:
        record = self._call.record
        record.finish = error.code or "error"
        return error_event(error, record.request_id)


@json_post("/")
async def create_message(request: Incoming) -> ASGIApp:
    """A reply to a conversation as blocks, whole or as a stream of events."""
    services = services_of(request)
    body = await read_json(request, MESSAGES)
    reply_id = record_of(request).reply_id(ID_PREFIX, body.request_id)
    check_amount("messages", body.messages, services.settings)
    with _own_names(body):
        asked = await checked(services, chat_request(body), request, reply_id)
        return await answer(
            services,
            request,
            [asked],
            encoder=lambda call: MessageEvents(reply_id, call.record.model, call.usage),
            reply=lambda call, deltas: message_body(reply_id, call.record.model, deltas[0], call.final_usage),
            stream=MessageStream,
        )


@json_post("/count_tokens")
async def count_tokens(request: Incoming) -> ASGIApp:
    """How long a conversation's prompt is."""
    services = services_of(request)
    body = await read_json(request, COUNT_TOKENS)
    check_amount("messages", body.messages, services.settings)
    with _own_names(body):
        Validator(services.settings).model(body.model, services.backend.card)
        rendered = await services.backend.render(chat_prompt(chat_request(body), services.settings))
    count = len(rendered.token_ids)
    return Reply(msgspec.json.encode(TokenCount(count, ContextManagement(count))))


@contextlib.contextmanager
def _own_names(body: CountTokensRequest) -> Iterator[None]:
    """Errors name the fields of this endpoint."""
    try:
        yield
    except ApiError as error:
        raise own_error(body, error) from None
    except EngineError as error:
        raise own_error(body, from_engine(error)) from None


def _on_api_error(request: HttpRequest, error: ApiError) -> Response[bytes]:
    return Response(
        error_body(error, record_of(request).request_id),
        status_code=error.status,
        media_type="application/json",
        headers=dict(error.headers),
    )


def _on_engine_error(request: HttpRequest, error: EngineError) -> Response[bytes]:
    return _on_api_error(request, from_engine(error))


def _on_http_exception(request: HttpRequest, error: HTTPException) -> Response[bytes]:
    return _on_api_error(request, ApiError(error.status_code, error.detail, headers=dict(error.headers or {})))


def _on_exception(request: HttpRequest, error: Exception) -> Response[bytes]:
    logger.error("unhandled error in %s %.200r", request.method, request.scope["path"], exc_info=error)
    return _on_api_error(request, internal_error())


messages_router = Router(
    "/v1/messages",
    route_handlers=[create_message, count_tokens],
    exception_handlers={
        ApiError: _on_api_error,
        EngineError: _on_engine_error,
        HTTPException: _on_http_exception,
        Exception: _on_exception,
    },
)
"""All errors behind this path have Anthropic's shape, a wrong key's and a wrong method's too."""
