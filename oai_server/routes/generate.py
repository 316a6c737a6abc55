"""The classic endpoints: POST /generate and POST /generate_stream, a prompt in and text out."""

from __future__ import annotations

import msgspec
from litestar.types import ASGIApp

from adapters.backend import ChoiceDelta, TextPrompt, Usage
from oai_server.calls import Call
from oai_server.routes.posts import json_post
from oai_server.routes.requests import answer, generation_request
from oai_server.wire.chunks import DONE, event
from oai_server.wire.decoding import Incoming, read_json
from oai_server.wire.generate import GenerateReply, GenerateRequest
from oai_server.wire.sampling import SamplingFields
from oai_server.wire.usage import UsageBody
from oai_server.wire.validate import Validator

DECODER = msgspec.json.Decoder(GenerateRequest)
ID_PREFIX = "gen-"
DEFAULT_MAX_TOKENS = 128


class GenerateChunks:
    """`data: {"text": ..., "finish_reason": null}`, then `data: [DONE]`."""

    text_frame: tuple[bytes, bytes] | None = (b'data: {"text":', b',"finish_reason":null}\n\n')

    def first(self) -> bytes:
        return b""

    def delta(self, delta: ChoiceDelta) -> bytes:
        return event({"text": delta.content, "finish_reason": delta.finish_reason})

    def end(self, usage: Usage) -> bytes:
        return DONE


@json_post("/generate")
async def generate(request: Incoming) -> ASGIApp:
    """The continuation of a prompt, whole, or streamed with `"stream": true`."""
    return await _answer(request, always_stream=False)


@json_post("/generate_stream")
async def generate_stream(request: Incoming) -> ASGIApp:
    """The continuation of a prompt as a stream of `{"text": ...}` events."""
    return await _answer(request, always_stream=True)


async def _answer(request: Incoming, *, always_stream: bool) -> ASGIApp:
    services = request.services
    body = await read_json(request, DECODER)
    request.record.name_reply(ID_PREFIX)
    card = services.backend.card
    fields = SamplingFields(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=body.stop,
        stream=always_stream or body.stream,
    )
    max_tokens = min(DEFAULT_MAX_TOKENS, card.max_model_len) if body.max_tokens is None else body.max_tokens
    params = Validator(services.settings, card).sampling(
        fields, max_tokens=max_tokens, max_tokens_name="max_tokens", logprobs=None
    )
    asked = generation_request(request, fields, TextPrompt(body.prompt), params)
    return await answer(request, [asked], encoder=lambda _call: GenerateChunks(), reply=_reply)


def _reply(call: Call, deltas: list[ChoiceDelta]) -> GenerateReply:
    (delta,) = deltas
    return GenerateReply(
        id=call.record.reply_id,
        model=call.record.model,
        text=delta.content,
        finish_reason=None if delta.finish_reason == "tool_calls" else delta.finish_reason,
        usage=UsageBody.of(call.usage()),
    )
