"""POST /v1/completions: one prompt or many, as text or token ids."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import msgspec
from litestar.types import ASGIApp

from adapters.backend import ChoiceDelta, GenerationParams, TextPrompt, TokenPrompt
from adapters.checks import too_long
from oai_server.calls import Call
from oai_server.errors import invalid
from oai_server.routes.posts import json_post
from oai_server.routes.requests import (
    answer,
    chunk_template,
    generation_request,
    tokens_as_ids,
    wants_continuous_usage,
)
from oai_server.services import Services
from oai_server.wire.completion_chunks import CompletionChunkOptions, CompletionChunks
from oai_server.wire.completions import Completion, CompletionChoice, CompletionRequest
from oai_server.wire.decoding import Incoming, read_json
from oai_server.wire.logprobs import completion_logprobs, prompt_logprobs
from oai_server.wire.usage import UsageBody
from oai_server.wire.validate import Validator, check_token_ids

DECODER = msgspec.json.Decoder(CompletionRequest)
ID_PREFIX = "cmpl-"
DEFAULT_MAX_TOKENS = 16


@json_post("/v1/completions")
async def create_completion(request: Incoming) -> ASGIApp:
    """Completions of one or more prompts, whole or as a stream of chunks."""
    body = await read_json(request, DECODER)
    request.record.name_reply(ID_PREFIX, body.request_id)
    params, prompts = await checked(request.services, body)
    asked = [generation_request(request, body, prompt, params) for prompt in prompts]
    return await answer(request, asked, encoder=partial(_chunks, body), reply=partial(_reply, body))


async def checked(
    services: Services, body: CompletionRequest
) -> tuple[GenerationParams, list[TextPrompt | TokenPrompt]]:
    """All checks of the front, in vLLM's order: model, prompts, sampling."""
    card = services.backend.card
    validator = Validator(services.settings, card)
    validator.model(body.model)
    prompts = _prompts(body, card.max_model_len if body.truncate_prompt_tokens is None else None)
    params = validator.sampling(
        body,
        max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        max_tokens_name="max_tokens",
        logprobs=body.logprobs,
    )
    validator.sequences(params.n, len(prompts))
    validator.amount("max_tokens", params.n * len(prompts), params.max_tokens, params.logprobs)
    params = await validator.with_grammar(params, body, services.backend)
    if body.echo and body.logprobs is not None and params.prompt_logprobs is None:
        params = msgspec.structs.replace(params, prompt_logprobs=body.logprobs)
    asker = "logprobs" if body.prompt_logprobs is None else "prompt_logprobs"
    validator.prompt_amount(asker, prompts, params.prompt_logprobs)
    return params, prompts


def _prompts(body: CompletionRequest, most: int | None) -> list[TextPrompt | TokenPrompt]:
    """The four spellings of `prompt`: text, texts, token ids, lists of token ids. `most`: tokens of one."""
    prompt = body.prompt
    special = body.add_special_tokens is not False
    if prompt is None or prompt == "":
        raise invalid("Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)", "prompt")
    if isinstance(prompt, str):
        return [TextPrompt(prompt, special)]
    if not prompt:
        raise invalid("You must pass at least one prompt", "prompt")
    kinds = {type(entry) for entry in prompt}
    if kinds == {int}:
        return [_token_prompt(prompt, most)]
    if len(kinds) > 1:
        raise invalid("prompt must be a string, a list of strings, token ids, or lists of token ids.", "prompt")
    return [
        TextPrompt(_not_empty(entry), special) if isinstance(entry, str) else _token_prompt(entry, most)
        for entry in prompt
    ]


def _not_empty(text: str) -> str:
    if not text:
        raise invalid("The decoder prompt cannot be empty", "prompt")
    return text


def _token_prompt(ids: Any, most: int | None) -> TokenPrompt:
    if not ids:
        raise invalid("The decoder prompt cannot be empty", "prompt")
    if most is not None and len(ids) > most:
        raise too_long(most, len(ids), "prompt")
    check_token_ids("prompt", ids)
    return TokenPrompt(tuple(ids))


def _chunks(body: CompletionRequest, call: Call) -> CompletionChunks:
    services = call.services
    return CompletionChunks(
        chunk_template(body, call, "text_completion"),
        CompletionChunkOptions(
            choices_per_prompt=call.choices_per_prompt,
            echo=bool(body.echo),
            continuous_usage=wants_continuous_usage(services, body),
            logprobs=body.logprobs is not None,
            token_ids=bool(body.return_token_ids),
            tokens_as_ids=tokens_as_ids(services, body),
        ),
        call.generations,
    )


def _reply(body: CompletionRequest, call: Call, deltas: list[ChoiceDelta]) -> Completion:
    return Completion(
        id=call.record.reply_id,
        created=int(time.time()),
        model=call.record.model,
        choices=[_choice(body, call, delta) for delta in deltas],
        usage=UsageBody.of(call.usage()),
        system_fingerprint=call.services.fingerprint,
    )


def _choice(body: CompletionRequest, call: Call, delta: ChoiceDelta) -> CompletionChoice:
    generation = call.generations[delta.index // call.choices_per_prompt]
    logprobs = None
    if body.logprobs is not None:
        logprobs = completion_logprobs(
            delta.logprobs,
            as_ids=tokens_as_ids(call.services, body),
            prompt=generation.prompt_logprobs if body.echo else (),
            prompt_text=generation.prompt_text if body.echo else "",
        )
    return CompletionChoice(
        index=delta.index,
        text=generation.prompt_text + delta.content if body.echo else delta.content,
        logprobs=logprobs,
        finish_reason=None if delta.finish_reason == "tool_calls" else delta.finish_reason,
        stop_reason=delta.stop_reason,
        token_ids=list(delta.token_ids) if body.return_token_ids else None,
        prompt_logprobs=prompt_logprobs(generation.prompt_logprobs) if body.prompt_logprobs is not None else None,
        prompt_token_ids=list(generation.prompt_token_ids) if body.return_token_ids else None,
    )
