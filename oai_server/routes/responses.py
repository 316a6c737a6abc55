"""POST /v1/responses and its count of tokens, without a store.

Clients send the whole conversation each time, as agents do anyway.
"""

from __future__ import annotations

import time
from functools import partial

import msgspec
from litestar import get
from litestar.params import FromPath
from litestar.types import ASGIApp

from adapters.backend import ChoiceDelta
from oai_server.calls import Call
from oai_server.errors import ApiError
from oai_server.replies import json_reply
from oai_server.routes.chat import checked, prompt_length
from oai_server.routes.posts import json_post
from oai_server.routes.requests import answer, renamed_errors
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
from oai_server.wire.validate_chat import check_amount

DECODER = msgspec.json.Decoder(ResponsesRequest)
ID_PREFIX = "resp_"


@json_post("/v1/responses")
async def create_response(request: Incoming) -> ASGIApp:
    """A response, whole or as a stream of events."""
    body = await _read(request)
    request.record.name_reply(ID_PREFIX, body.request_id)
    with renamed_errors(partial(own_error, body)):
        chat = chat_request(body)
        asked = await checked(request, chat)
        return await answer(request, [asked], encoder=partial(_events, body, chat), reply=partial(_reply, body, chat))


@json_post("/v1/responses/input_tokens")
async def count_input_tokens(request: Incoming) -> ASGIApp:
    """How long a conversation's prompt is."""
    body = await _read(request)
    with renamed_errors(partial(own_error, body)):
        count = await prompt_length(request, chat_request(body))
    return json_reply(InputTokens(count))


async def _read(request: Incoming) -> ResponsesRequest:
    body = await read_json(request, DECODER)
    if isinstance(body.input, list):
        check_amount("input", body.input, request.services.settings)
    return body


@get("/v1/responses/{response_id:str}")
async def retrieve_response(response_id: FromPath[str]) -> ASGIApp:
    """404: nothing is stored."""
    raise ApiError(404, f"Response with id '{response_id[:100]}' not found.", param="response_id")


def _events(body: ResponsesRequest, chat: ChatRequest, call: Call) -> ResponseEvents:
    response = response_body(body, call.record.reply_id, int(time.time()), call.record.model)
    return ResponseEvents(response, logprobs=bool(chat.logprobs))


def _reply(body: ResponsesRequest, chat: ChatRequest, call: Call, deltas: list[ChoiceDelta]) -> ResponseBody:
    events = _events(body, chat, call)
    for delta in deltas:
        events.delta(delta)
    events.end(call.usage())
    return events.response
