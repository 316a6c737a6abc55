"""POST /tokenize and /detokenize, at the root as vLLM has them and under /v1."""

from __future__ import annotations

import msgspec
from litestar.types import ASGIApp

from adapters.backend import ChatPrompt, Prompt, TextPrompt
from oai_server.errors import invalid
from oai_server.replies import Reply
from oai_server.routes.posts import json_post
from oai_server.services import Services, services_of
from oai_server.wire.decoding import Incoming, read_json
from oai_server.wire.tokens import DetokenizeReply, DetokenizeRequest, TokenizeReply, TokenizeRequest
from oai_server.wire.validate import Validator, check_token_ids
from oai_server.wire.validate_chat import check_ending, check_kwargs, check_messages, check_tools

TOKENIZE = msgspec.json.Decoder(TokenizeRequest)
DETOKENIZE = msgspec.json.Decoder(DetokenizeRequest)


@json_post("/tokenize", "/v1/tokenize")
async def tokenize(request: Incoming) -> ASGIApp:
    """Token ids of a text, or of a conversation behind the chat template."""
    services = services_of(request)
    body = await read_json(request, TOKENIZE)
    Validator(services.settings).model(body.model, services.backend.card)
    rendered = await services.backend.render(_prompt(services, body))
    reply = TokenizeReply(
        count=len(rendered.token_ids),
        max_model_len=services.backend.card.max_model_len,
        tokens=list(rendered.token_ids),
        token_strs=list(rendered.token_strs) if body.return_token_strs else None,
    )
    return Reply(msgspec.json.encode(reply))


@json_post("/detokenize", "/v1/detokenize")
async def detokenize(request: Incoming) -> ASGIApp:
    """The text of token ids."""
    services = services_of(request)
    body = await read_json(request, DETOKENIZE)
    Validator(services.settings).model(body.model, services.backend.card)
    check_token_ids("tokens", body.tokens)
    reply = DetokenizeReply(await services.backend.detokenize(tuple(body.tokens)))
    return Reply(msgspec.json.encode(reply))


def _prompt(services: Services, body: TokenizeRequest) -> Prompt:
    if body.messages is None:
        if body.prompt is None:
            raise invalid("Either `prompt` or `messages` must be given.", "prompt", "missing_required_parameter")
        return TextPrompt(body.prompt, body.add_special_tokens is not False)
    check_messages(body.messages, services.settings)
    check_ending(body.add_generation_prompt, body.continue_final_message)
    continued = bool(body.continue_final_message)
    return ChatPrompt(
        messages=tuple(body.messages),
        tools=check_tools(body.tools, services.settings),
        chat_template_kwargs=check_kwargs(body.chat_template_kwargs, services.settings),
        add_generation_prompt=not continued and body.add_generation_prompt is not False,
        continue_final_message=continued,
    )
