"""POST /v1/responses and its count of tokens, without a store.

Clients send the whole conversation each time, as agents do anyway.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import msgspec
from litestar import get
from litestar.params import FromPath
from litestar.types import ASGIApp

from adapters.backend import ChoiceDelta
from engine.errors import RequestError
from oai_server.calls import Call
from oai_server.errors import ApiError, from_engine
from oai_server.replies import Reply
from oai_server.routes.chat import checked
from oai_server.routes.posts import json_post
from oai_server.routes.requests import answer, record_of
from oai_server.services import services_of
from oai_server.wire.chat import ChatRequest
from oai_server.wire.decoding import Incoming, read_json
from oai_server.wire.response_events import ResponseEvents
from oai_server.wire.responses import (
    InputTokens,
    ResponseBody,
    ResponsesRequest,
    chat_request,
    own_error,
    response_body,
)
from oai_server.wire.validate import Validator
from oai_server.wire.validate_chat import chat_prompt, check_amount

DECODER = msgspec.json.Decoder(ResponsesRequest)
ID_PREFIX = "resp_"


@json_post("/v1/responses")
async def create_response(request: Incoming) -> ASGIApp:
    """A response, whole or as a stream of events."""
    services = services_of(request)
    body = await read_json(request, DECODER)
    reply_id = record_of(request).reply_id(ID_PREFIX, body.request_id)
    if isinstance(body.input, list):
        check_amount("input", body.input, services.settings)
    with _own_names(body):
        chat = chat_request(body)
        asked = await checked(services, chat, request, reply_id)
        return await answer(
            services,
            request,
            [asked],
            encoder=lambda call: _events(body, chat, call, reply_id),
            reply=lambda call, deltas: _reply(_events(body, chat, call, reply_id), call, deltas),
        )


@json_post("/v1/responses/input_tokens")
async def count_input_tokens(request: Incoming) -> ASGIApp:
    """How long a conversation's prompt is."""
    services = services_of(request)
    body = await read_json(request, DECODER)
    if isinstance(body.input, list):
        check_amount("input", body.input, services.settings)
    with _own_names(body):
        Validator(services.settings).model(body.model, services.backend.card)
        rendered = await services.backend.render(chat_prompt(chat_request(body), services.settings))
    return Reply(msgspec.json.encode(InputTokens(len(rendered.token_ids))))


@get("/v1/responses/{response_id:str}")
async def retrieve_response(response_id: FromPath[str]) -> ASGIApp:
    """404: nothing is stored."""
    raise ApiError(404, f"Response with id '{response_id[:100]}' not found.", param="response_id")


def _events(body: ResponsesRequest, chat: ChatRequest, call: Call, reply_id: str) -> ResponseEvents:
    response = response_body(body, reply_id, int(time.time()), call.record.model)
    return ResponseEvents(response, logprobs=bool(chat.logprobs))


def _reply(events: ResponseEvents, call: Call, deltas: list[ChoiceDelta]) -> ResponseBody:
    for delta in deltas:
        events.delta(delta)
    events.end(call.final_usage)
    return events.response


@contextlib.contextmanager
def _own_names(body: ResponsesRequest) -> Iterator[None]:
    """Errors name the fields of this endpoint."""
    try:
        yield
    except ApiError as error:
        raise own_error(body, error) from None
    except RequestError as error:
        raise own_error(body, from_engine(error)) from None
