"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, for Claude Code and Anthropic's own clients."""

from __future__ import annotations

from functools import partial

import msgspec
from litestar import Router
from litestar.types import ASGIApp

from adapters.backend import ChoiceDelta
from oai_server.calls import Call
from oai_server.error_replies import on_messages_exception
from oai_server.errors import ApiError
from oai_server.replies import json_reply
from oai_server.routes.chat import checked, prompt_length
from oai_server.routes.posts import json_post
from oai_server.routes.requests import answer, renamed_errors
from oai_server.streaming import TokenStream
from oai_server.wire.decoding import Incoming, read_json
from oai_server.wire.message_errors import error_event
from oai_server.wire.message_events import MessageEvents
from oai_server.wire.message_reply import ContextManagement, MessageBody, TokenCount, message_body
from oai_server.wire.messages import CountTokensRequest, MessagesRequest, chat_request, own_error
from oai_server.wire.validate_chat import check_amount

MESSAGES = msgspec.json.Decoder(MessagesRequest)
COUNT_TOKENS = msgspec.json.Decoder(CountTokensRequest)
ID_PREFIX = "msg_"


class MessageStream(TokenStream):
    """Ends with an error event of Anthropic's when it fails."""

    def _failure(self, error: ApiError) -> bytes:
        return error_event(error, self._call.record.request_id)


@json_post("/")
async def create_message(request: Incoming) -> ASGIApp:
    """A reply to a conversation as blocks, whole or as a stream of events."""
    body = await read_json(request, MESSAGES)
    request.record.name_reply(ID_PREFIX, body.request_id)
    check_amount("messages", body.messages, request.services.settings)
    with renamed_errors(partial(own_error, body)):
        asked = await checked(request, chat_request(body))
        return await answer(request, [asked], encoder=_events, reply=_reply, stream=MessageStream)


@json_post("/count_tokens")
async def count_tokens(request: Incoming) -> ASGIApp:
    """How long a conversation's prompt is."""
    body = await read_json(request, COUNT_TOKENS)
    check_amount("messages", body.messages, request.services.settings)
    with renamed_errors(partial(own_error, body)):
        count = await prompt_length(request, chat_request(body))
    return json_reply(TokenCount(count, ContextManagement(count)))


def _events(call: Call) -> MessageEvents:
    return MessageEvents(call.record.reply_id, call.record.model, call.usage)


def _reply(call: Call, deltas: list[ChoiceDelta]) -> MessageBody:
    return message_body(call.record.reply_id, call.record.model, deltas[0], call.usage())


messages_router = Router(
    "/v1/messages",
    route_handlers=[create_message, count_tokens],
    exception_handlers={Exception: on_messages_exception},
)
"""All errors behind this path have Anthropic's shape, a wrong key's and a wrong method's too."""
