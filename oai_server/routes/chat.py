"""POST /v1/chat/completions."""

from __future__ import annotations

import time

import msgspec
from litestar.types import ASGIApp

from adapters.backend import ChoiceDelta, GenerationRequest, ToolCallDelta
from oai_server.calls import Call
from oai_server.routes.posts import json_post
from oai_server.routes.requests import (
    answer,
    chunk_template,
    generation_request,
    record_of,
    tokens_as_ids,
    wants_continuous_usage,
    wants_usage,
)
from oai_server.services import HasScope, Services, services_of
from oai_server.wire.chat import (
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    ChatRequest,
    FunctionCall,
    ToolCall,
    finish_reason,
    names_call,
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
    services = services_of(request)
    body = await read_json(request, DECODER)
    reply_id = record_of(request).reply_id(ID_PREFIX, body.request_id)
    return await answer(
        services,
        request,
        [await checked(services, body, request, reply_id)],
        encoder=lambda call: _chunks(services, body, call, reply_id),
        reply=lambda call, deltas: _reply(services, body, call, reply_id, deltas),
    )


async def checked(services: Services, body: ChatRequest, request: HasScope, reply_id: str) -> GenerationRequest:
    """All checks of the front, in vLLM's order: model, conversation, sampling."""
    validator = Validator(services.settings)
    card = services.backend.card
    validator.model(body.model, card)
    prompt = chat_prompt(body, services.settings)
    newer = body.max_completion_tokens is not None
    params = validator.sampling(
        body,
        card,
        max_tokens=body.max_completion_tokens if newer else body.max_tokens,
        max_tokens_name="max_completion_tokens" if newer else "max_tokens",
        logprobs=validator.chat_logprobs(body.logprobs, body.top_logprobs),
    )
    if (grammar := await validator.grammar(body, services.backend)) is not None:
        params = msgspec.structs.replace(params, grammar=grammar)
    return generation_request(
        services,
        record_of(request),
        prompt,
        params,
        reply_id=reply_id,
        stream=bool(body.stream),
        priority=body.priority or 0,
        cache_salt=body.cache_salt,
    )


def _chunks(services: Services, body: ChatRequest, call: Call, reply_id: str) -> ChatChunks:
    return ChatChunks(
        chunk_template(services, body, call, "chat.completion.chunk", reply_id),
        ChatChunkOptions(
            choices=call.num_choices,
            role=_role(body),
            echo=_echo(body),
            include_usage=wants_usage(services, body),
            continuous_usage=wants_continuous_usage(services, body),
            token_ids=bool(body.return_token_ids),
            tokens_as_ids=tokens_as_ids(services, body),
            prompt_text=bool(body.return_prompt_text),
            reasoning_field=services.settings.reasoning_field,
            named_call=names_call(body),
        ),
        call.generations[0],
    )


def _reply(
    services: Services, body: ChatRequest, call: Call, reply_id: str, deltas: list[ChoiceDelta]
) -> ChatCompletion:
    generation = call.generations[0]
    return ChatCompletion(
        id=reply_id,
        created=int(time.time()),
        model=call.record.model,
        choices=[_choice(services, body, delta) for delta in deltas],
        usage=UsageBody.of(call.final_usage),
        system_fingerprint=services.fingerprint,
        prompt_logprobs=prompt_logprobs(generation.prompt_logprobs) if body.prompt_logprobs is not None else None,
        prompt_token_ids=list(generation.prompt_token_ids) if body.return_token_ids else None,
        prompt_text=generation.prompt_text if body.return_prompt_text else None,
    )


def _choice(services: Services, body: ChatRequest, delta: ChoiceDelta) -> ChatChoice:
    thinking = dict.fromkeys(REASONING_KEYS[services.settings.reasoning_field], delta.reasoning or None)
    calls = _tool_calls(delta.tool_calls) if delta.tool_calls else []
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


def _tool_calls(deltas: tuple[ToolCallDelta, ...]) -> list[ToolCall]:
    headers = {delta.index: delta for delta in deltas if delta.id is not None}
    arguments: dict[int, list[str]] = {}
    for delta in deltas:
        arguments.setdefault(delta.index, []).append(delta.arguments)
    return [
        ToolCall(id=header.id or "", function=FunctionCall(header.name or "", "".join(arguments[index])))
        for index, header in sorted(headers.items())
    ]


def _role(body: ChatRequest) -> str:
    """Of the reply: the assistant's, or the last message's when that one is continued."""
    if body.continue_final_message or body.add_generation_prompt is False:
        return str(body.messages[-1].get("role", "assistant"))
    return "assistant"


def _echo(body: ChatRequest) -> str:
    content = body.messages[-1].get("content") if body.echo else None
    return content if isinstance(content, str) and body.messages[-1].get("role") == _role(body) else ""
