"""One error envelope for every failure: `{"error": {"message", "type", "param", "code"}}`.

Routes raise ApiError (or let engine.errors through); `exception_handlers` renders whatever arrives, Litestar's own
routing errors included. A stream that has begun carries the same envelope as an SSE event.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from engine.errors import (
    DeadlineExceededError,
    EngineDeadError,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    RequestError,
    RequestFailedError,
)
from oai_server.retry import retry_after

logger = logging.getLogger("oai_server")

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
CLIENT_CLOSED_REQUEST = 499
"""Status in the access log when the client left before the answer; nobody receives it."""
NO_RETRY = {"x-should-retry": "false"}
"""For failures that the same request would meet again; the official clients obey it."""
MAX_MESSAGE_CHARS = 500
"""Reasons of a grammar's or a template's library quote what they were given, at any length."""
GENERATING = ("/chat/completions", "/completions", "/responses", "/messages", "/models")
"""Endpoints below /v1 that every client asks for."""
TYPE_BY_STATUS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


class ApiError(Exception):
    """An error that the client is told. `param` is the bare name of the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[:MAX_MESSAGE_CHARS] + "..."
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = TYPE_BY_STATUS.get(status, SERVER_ERROR if status >= 500 else INVALID_REQUEST)
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> bytes:
        return msgspec.json.encode(ErrorBody(ErrorDetail(self.message, self.type, self.param, self.code)))


class ClientGoneError(ApiError):
    """The client closed its connection; raised to unwind the request, never read by anyone."""

    def __init__(self) -> None:
        super().__init__(CLIENT_CLOSED_REQUEST, "The client closed the connection.")


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def shutting_down() -> ApiError:
    return ApiError(
        503,
        "The server is shutting down. Please send the request again.",
        code="shutting_down",
        headers={**retry_after(1), "connection": "close"},
    )


def unavailable(message: str, retry_after_s: float = 1.0, code: str | None = "unavailable") -> ApiError:
    return ApiError(503, message, code=code, headers=retry_after(retry_after_s))


def from_engine(error: EngineError) -> ApiError:
    """What the client hears about an engine error."""
    if isinstance(error, DeadlineExceededError):
        return ApiError(504, str(error), code=error.code, headers=NO_RETRY)
    if isinstance(error, RequestError):
        return invalid(str(error), error.param, error.code)
    if isinstance(error, EngineUnavailableError):
        return unavailable(str(error), error.retry_after_s)
    if isinstance(error, EngineOverloadedError):
        return ApiError(429, str(error), code="overloaded", headers=retry_after(error.retry_after_s))
    if isinstance(error, RequestFailedError):
        return ApiError(500, str(error), headers=NO_RETRY)
    if isinstance(error, EngineDeadError):
        return unavailable(
            str(error) or "The engine stopped and the request could not be resumed.", code="engine_dead"
        )
    logger.error("engine error", exc_info=error)
    return internal_error()


def internal_error() -> ApiError:
    """Says nothing about the cause: paths, addresses and other people's text stay in the log."""
    return ApiError(
        500, "The server had an error while processing your request.", headers={"x-should-retry": "false"}
    )


# ---- Litestar's side


def _respond(error: ApiError) -> Response[bytes]:
    return Response(
        error.body(), status_code=error.status, media_type="application/json", headers=dict(error.headers)
    )


def on_engine_error(_request: Request[Any, Any, Any], error: EngineError) -> Response[bytes]:
    return _respond(from_engine(error))


def on_api_error(_request: Request[Any, Any, Any], error: ApiError) -> Response[bytes]:
    return _respond(error)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = error.status_code
    if status == 404:
        path = request.scope["path"][:200]
        message = f"Invalid URL ({request.method} {path}){_hint(path)}"
        return _respond(ApiError(404, message, code="unknown_url"))
    if status == 405:
        message = f"Not allowed to {request.method} on this URL."
        return _respond(ApiError(405, message, code="method_not_allowed", headers=dict(error.headers or {})))
    if status < 500:
        return _respond(ApiError(status, error.detail))
    return on_exception(request, error)


def _hint(path: str) -> str:
    """What was probably meant: a base URL without its /v1 or with two, or a service that is not served."""
    below = path.removeprefix("/v1/v1").removeprefix("/v1")
    if below in GENERATING and path != f"/v1{below}":
        ends = "before" if below == "/messages" else "in"
        return f". Did you mean /v1{below}? Base URLs end {ends} /v1."
    if path.startswith("/v1/"):
        return ". This server generates text; embeddings, images, audio, files and the like are not served."
    return ""


def on_exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logger.error("unhandled error in %s %.200r", request.method, request.scope["path"], exc_info=error)
    return _respond(internal_error())


exception_handlers: ExceptionHandlersMap = {
    ApiError: on_api_error,
    EngineError: on_engine_error,
    HTTPException: on_http_exception,
    Exception: on_exception,
}
