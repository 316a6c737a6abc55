"""/openapi.json, made from the wire Structs that requests are really decoded with."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
from litestar import get
from litestar.types import ASGIApp

import oai_server
from oai_server.errors import ErrorBody
from oai_server.replies import Reply
from oai_server.routes.operations import HealthBody
from oai_server.wire.bounds import BOUNDS, INT64_MAX, INT64_MIN
from oai_server.wire.chat import ChatCompletion, ChatRequest
from oai_server.wire.completions import Completion, CompletionRequest
from oai_server.wire.generate import GenerateReply, GenerateRequest
from oai_server.wire.message_errors import MessagesErrorBody
from oai_server.wire.message_reply import MessageBody, TokenCount
from oai_server.wire.messages import CountTokensRequest, MessagesRequest
from oai_server.wire.models import Model, ModelList
from oai_server.wire.responses import InputTokens, ResponseBody, ResponsesRequest
from oai_server.wire.tokens import DetokenizeReply, DetokenizeRequest, TokenizeReply, TokenizeRequest

JSON = "application/json"
EVENTS = "text/event-stream"
REFS = "#/components/schemas/{name}"

POSTS: tuple[tuple[str, str, type, type | None, bool], ...] = (
    ("/v1/chat/completions", "A reply to a conversation.", ChatRequest, ChatCompletion, True),
    ("/v1/responses", "A reply to a conversation, as items.", ResponsesRequest, ResponseBody, True),
    ("/v1/responses/input_tokens", "How long a conversation's prompt is.", ResponsesRequest, InputTokens, False),
    ("/v1/messages", "A reply to a conversation, as Anthropic's blocks.", MessagesRequest, MessageBody, True),
    ("/v1/messages/count_tokens", "How long a conversation's prompt is.", CountTokensRequest, TokenCount, False),
    ("/v1/completions", "Completions of one or more prompts.", CompletionRequest, Completion, True),
    ("/generate", "The continuation of a prompt.", GenerateRequest, GenerateReply, True),
    ("/generate_stream", "The continuation of a prompt as a stream.", GenerateRequest, None, True),
    ("/tokenize", "Token ids of a text or a conversation.", TokenizeRequest, TokenizeReply, False),
    ("/v1/tokenize", "Token ids of a text or a conversation.", TokenizeRequest, TokenizeReply, False),
    ("/detokenize", "The text of token ids.", DetokenizeRequest, DetokenizeReply, False),
    ("/v1/detokenize", "The text of token ids.", DetokenizeRequest, DetokenizeReply, False),
)
"""(path, summary, request, whole reply, whether it may be a stream of events)"""

GETS: tuple[tuple[str, str, type | None, str], ...] = (
    ("/v1/models", "What is served.", ModelList, JSON),
    ("/v1/models/{model_id}", "One served name.", Model, JSON),
    ("/v1/responses/{response_id}", "404: responses are not stored.", None, JSON),
    ("/health", "200 when requests are answered.", HealthBody, JSON),
    ("/readyz", "As /health.", HealthBody, JSON),
    ("/livez", "200 while the process runs.", None, JSON),
    ("/ping", "As /health.", HealthBody, JSON),
    ("/version", "Version of the server.", None, JSON),
    ("/load", "Requests in work.", None, JSON),
    ("/metrics", "Prometheus text.", None, "text/plain"),
    ("/openapi.json", "This document.", None, JSON),
)
"""(path, summary, reply, media type)"""

ERRORS = {
    "400": "The request is at fault; `param` names the field.",
    "401": "No API key, or a wrong one.",
    "403": "A foreign Host or Origin on a loopback address.",
    "404": "No such model or path.",
    "405": "No such method here.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "415": "The body is not plain JSON.",
    "429": "The queue is full, or the key has all it may have; see Retry-After.",
    "431": "The headers are too large.",
    "500": "The server failed.",
    "503": "No engine is up, or the server drains; see Retry-After.",
    "504": "The request's time is over.",
}


@get("/openapi.json")
async def describe() -> ASGIApp:
    """The API's description."""
    return Reply(document())


@functools.cache
def document() -> bytes:
    types = {kind for _, _, asked, reply, _ in POSTS for kind in (asked, reply) if kind is not None}
    types |= {reply for _, _, reply, _ in GETS if reply is not None} | {ErrorBody, MessagesErrorBody}
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=REFS)
    for schema in schemas.values():
        _add_bounds(schema)
    paths: dict[str, dict[str, Any]] = {}
    for path, summary, asked, reply, streams in POSTS:
        paths.setdefault(path, {})["post"] = _post(path, summary, asked, reply, streams)
    for path, summary, answer, media in GETS:
        paths.setdefault(path, {})["get"] = _get(path, summary, answer, media)
    paths["/ping"]["post"] = _get("/ping", "As /health.", HealthBody, JSON) | {"operationId": "post_ping"}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Qwen OpenAI-compatible server", "version": oai_server.__version__},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {
                    "api_key": {"type": "http", "scheme": "bearer"},
                    "api_key_header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
            "security": [{}, {"api_key": []}, {"api_key_header": []}],
        }
    )


def _post(path: str, summary: str, asked: type, reply: type | None, streams: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if reply is not None:
        content[JSON] = {"schema": _ref(reply)}
    if streams:
        content[EVENTS] = {"schema": {"type": "string"}}
    return {
        "summary": summary,
        "operationId": _operation("post", path),
        "requestBody": {"required": True, "content": {JSON: {"schema": _ref(asked)}}},
        "responses": {"200": {"description": "Done.", "content": content}, **_errors(path)},
    }


def _get(path: str, summary: str, reply: type | None, media: str) -> dict[str, Any]:
    schema = _ref(reply) if reply is not None else {} if media == JSON else {"type": "string"}
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": _operation("get", path),
        "responses": {"200": {"description": "Done.", "content": {media: {"schema": schema}}}, **_errors(path)},
    }
    if reply is HealthBody:
        content = {JSON: {"schema": {"anyOf": [_ref(HealthBody), _ref(ErrorBody)]}}}
        operation["responses"]["503"] = {"description": "Not now.", "content": content}
    if "{model_id}" in path:
        operation["parameters"] = [{"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}]
    return operation


def _operation(method: str, path: str) -> str:
    return method + "_" + path.strip("/").replace("/", "_").replace("{", "").replace("}", "").replace(".", "_")


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": REFS.format(name=kind.__name__)}


def _errors(path: str) -> dict[str, Any]:
    content = {JSON: {"schema": _ref(MessagesErrorBody if path.startswith("/v1/messages") else ErrorBody)}}
    return {status: {"description": text, "content": content} for status, text in ERRORS.items()}


def _add_bounds(schema: dict[str, Any]) -> None:
    for name, bound in BOUNDS.items():
        for branch in schema.get("properties", {}).get(name, {}).get("anyOf", ()):
            if branch.get("type") in ("number", "integer"):
                branch["exclusiveMinimum" if bound.open_low else "minimum"] = max(bound.low, INT64_MIN)
                branch["maximum"] = min(bound.high, INT64_MAX)
