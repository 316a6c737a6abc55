"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from functools import partial

import msgspec
from litestar.types import ASGIApp

from adapters.backend import ChoiceDelta, GenerationRequest
from oai_server.calls import Call
from oai_server.routes.posts import json_post
from oai_server.routes.requests import (
    answer,
    chunk_template,
    generation_request,
    tokens_as_ids,
    wants_continuous_usage,
)
from oai_server.services import Services
from oai_server.wire.chat import (
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    ChatRequest,
    finish_reason,
    names_call,
    tool_calls,
)
from oai_server.wire.chat_chunks import REASONING_KEYS, ChatChunkOptions, ChatChunks
from oai_server.wire.decoding import Incoming, read_json
from oai_server.wire.logprobs import chat_logprobs, prompt_logprobs
from oai_server.wire.usage import UsageBody
from oai_server.wire.validate import Validator
from oai_server.wire.validate_chat import chat_prompt

DECODER = msgspec.json.Decoder(ChatRequest)
ID_PREFIX = "chatcmpl-"


@json_post("/v1/chat/completions")
async def create_chat_completion(request: Incoming) -> ASGIApp:
    """A reply to a conversation, whole or as a stream of chunks."""
    body = await read_json(request, DECODER)
    request.record.name_reply(ID_PREFIX, body.request_id)
    asked = await checked(request, body)
    return await answer(request, [asked], encoder=partial(_chunks, body), reply=partial(_reply, body))


async def checked(request: Incoming, body: ChatRequest) -> GenerationRequest:
    """All checks of the front, in vLLM's order: model, conversation, sampling."""
    services = request.services
    validator = Validator(services.settings, services.backend.card)
    validator.model(body.model)
    prompt = chat_prompt(body, services.settings)
    newer = body.max_completion_tokens is not None
    params = validator.sampling(
        body,
        max_tokens=body.max_completion_tokens if newer else body.max_tokens,
        max_tokens_name="max_completion_tokens" if newer else "max_tokens",
        logprobs=validator.chat_logprobs(body.logprobs, body.top_logprobs),
    )
    params = await validator.with_grammar(params, body, services.backend)
    return generation_request(request, body, prompt, params)


async def prompt_length(request: Incoming, body: ChatRequest) -> int:
    """Tokens of the conversation behind the chat template."""
    services = request.services
    Validator(services.settings, services.backend.card).model(body.model)
    return len((await services.backend.render(chat_prompt(body, services.settings))).token_ids)


def _chunks(body: ChatRequest, call: Call) -> ChatChunks:
    services = call.services
    return ChatChunks(
        chunk_template(body, call, "chat.completion.chunk"),
        ChatChunkOptions(
            choices=call.num_choices,
            role=_role(body),
            echo=_echo(body),
            continuous_usage=wants_continuous_usage(services, body),
            token_ids=bool(body.return_token_ids),
            tokens_as_ids=tokens_as_ids(services, body),
            prompt_text=bool(body.return_prompt_text),
            reasoning_field=services.settings.reasoning_field,
            named_call=names_call(body),
        ),
        call.generations[0],
    )


def _reply(body: ChatRequest, call: Call, deltas: list[ChoiceDelta]) -> ChatCompletion:
    services, generation = call.services, call.generations[0]
    return ChatCompletion(
        id=call.record.reply_id,
        created=int(time.time()),
        model=call.record.model,
        choices=[_choice(services, body, delta) for delta in deltas],
        usage=UsageBody.of(call.usage()),
        system_fingerprint=services.fingerprint,
        prompt_logprobs=prompt_logprobs(generation.prompt_logprobs) if body.prompt_logprobs is not None else None,
        prompt_token_ids=list(generation.prompt_token_ids) if body.return_token_ids else None,
        prompt_text=generation.prompt_text if body.return_prompt_text else None,
    )


def _choice(services: Services, body: ChatRequest, delta: ChoiceDelta) -> ChatChoice:
    thinking = dict.fromkeys(REASONING_KEYS[services.settings.reasoning_field], delta.reasoning or None)
    calls = tool_calls(delta.tool_calls)
    text = _echo(body) + delta.content
    return ChatChoice(
        index=delta.index,
        message=ChatMessage(
            role=_role(body),
            content=text or (None if calls or delta.reasoning else ""),
            tool_calls=calls or msgspec.UNSET,
            **thinking,
        ),
        logprobs=chat_logprobs(delta.logprobs, as_ids=tokens_as_ids(services, body)) if body.logprobs else None,
        finish_reason=finish_reason(body, delta.finish_reason),
        stop_reason=delta.stop_reason,
        token_ids=list(delta.token_ids) if body.return_token_ids else None,
    )


def _role(body: ChatRequest) -> str:
    """Of the reply: the assistant's, or the last message's when that one is continued."""
    if body.continue_final_message or body.add_generation_prompt is False:
        return str(body.messages[-1].get("role", "assistant"))
    return "assistant"


def _echo(body: ChatRequest) -> str:
    content = body.messages[-1].get("content") if body.echo else None
    return content if isinstance(content, str) and body.messages[-1].get("role") == _role(body) else ""
