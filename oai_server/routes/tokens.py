"""POST /tokenize and /detokenize, at the root as vLLM has them and under /v1."""

from __future__ import annotations

import msgspec
from litestar.types import ASGIApp

from adapters.backend import Prompt, TextPrompt
from oai_server.errors import invalid
from oai_server.replies import json_reply
from oai_server.routes.posts import json_post
from oai_server.settings import Settings
from oai_server.wire.chat import ChatRequest
from oai_server.wire.decoding import Incoming, read_json
from oai_server.wire.tokens import DetokenizeReply, DetokenizeRequest, TokenizeReply, TokenizeRequest
from oai_server.wire.validate import Validator, check_token_ids
from oai_server.wire.validate_chat import chat_prompt

TOKENIZE = msgspec.json.Decoder(TokenizeRequest)
DETOKENIZE = msgspec.json.Decoder(DetokenizeRequest)


@json_post("/tokenize", "/v1/tokenize")
async def tokenize(request: Incoming) -> ASGIApp:
    """Token ids of a text, or of a conversation behind the chat template."""
    services = request.services
    body = await read_json(request, TOKENIZE)
    Validator(services.settings, services.backend.card).model(body.model)
    rendered = await services.backend.render(_prompt(body, services.settings))
    reply = TokenizeReply(
        count=len(rendered.token_ids),
        max_model_len=services.backend.card.max_model_len,
        tokens=list(rendered.token_ids),
        token_strs=list(rendered.token_strs) if body.return_token_strs else None,
    )
    return json_reply(reply)


@json_post("/detokenize", "/v1/detokenize")
async def detokenize(request: Incoming) -> ASGIApp:
    """The text of token ids."""
    services = request.services
    body = await read_json(request, DETOKENIZE)
    Validator(services.settings, services.backend.card).model(body.model)
    check_token_ids("tokens", body.tokens)
    reply = DetokenizeReply(await services.backend.detokenize(tuple(body.tokens)))
    return json_reply(reply)


def _prompt(body: TokenizeRequest, settings: Settings) -> Prompt:
    if body.messages is not None:
        return chat_prompt(
            ChatRequest(
                messages=body.messages,
                tools=body.tools,
                chat_template_kwargs=body.chat_template_kwargs,
                add_generation_prompt=body.add_generation_prompt,
                continue_final_message=body.continue_final_message,
            ),
            settings,
        )
    if body.prompt is None:
        raise invalid("Either `prompt` or `messages` must be given.", "prompt", "missing_required_parameter")
    return TextPrompt(body.prompt, body.add_special_tokens is not False)
