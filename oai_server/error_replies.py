"""What the client is told when a handler raised, in OpenAI's shape or, below /v1/messages, in Anthropic's.

Each shape is one handler of `Exception`: a handler of a narrower class would be taken before it.
"""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from engine.errors import EngineError
from oai_server.errors import ApiError, internal_error
from oai_server.record import record_of
from oai_server.services import services_of
from oai_server.wire.message_errors import error_body

logger = logging.getLogger("oai_server")

GENERATING = ("/chat/completions", "/completions", "/responses", "/messages", "/models")
"""Endpoints below /v1 that every client asks for."""


def on_exception(request: Request[Any, Any, Any], raised: Exception) -> Response[bytes]:
    """The reply in OpenAI's shape."""
    error = api_error(request, raised)
    return _response(error, error.body())


def on_messages_exception(request: Request[Any, Any, Any], raised: Exception) -> Response[bytes]:
    """The reply in Anthropic's shape."""
    error = api_error(request, raised)
    return _response(error, error_body(error, record_of(request.scope).request_id))


def _response(error: ApiError, body: bytes) -> Response[bytes]:
    return Response(body, status_code=error.status, media_type="application/json", headers=error.headers)


def api_error(request: Request[Any, Any, Any], raised: Exception) -> ApiError:
    """`raised` as the client hears it; what nobody foresaw goes to the log in full."""
    if isinstance(raised, ApiError):
        return raised
    if isinstance(raised, EngineError):
        return services_of(request.scope).told(raised)
    if isinstance(raised, HTTPException) and raised.status_code < 500:
        return _routing_error(request, raised)
    logger.error("unhandled error in %s %.200r", request.method, request.scope["path"], exc_info=raised)
    return internal_error()


def _routing_error(request: Request[Any, Any, Any], raised: HTTPException) -> ApiError:
    if raised.status_code == 404:
        path = request.scope["path"][:200]
        return ApiError(404, f"Invalid URL ({request.method} {path}){_hint(path)}", code="unknown_url")
    if raised.status_code == 405:
        message = f"Not allowed to {request.method} on this URL."
        return ApiError(405, message, code="method_not_allowed", headers=dict(raised.headers or {}))
    return ApiError(raised.status_code, raised.detail)


def _hint(path: str) -> str:
    """What was probably meant: a base URL without its /v1 or with two, or a service that is not served."""
    below = path.removeprefix("/v1/v1").removeprefix("/v1")
    if below in GENERATING and path != f"/v1{below}":
        ends = "before" if below == "/messages" else "in"
        return f". Did you mean /v1{below}? Base URLs end {ends} /v1."
    if path.startswith("/v1/"):
        return ". This server generates text; embeddings, images, audio, files and the like are not served."
    return ""
