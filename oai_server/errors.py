"""One error envelope for every failure: `{"error": {"message", "type", "param", "code"}}`.

Routes raise ApiError or let engine.errors through; `oai_server.error_replies` makes replies of both. A stream that
has begun carries the same envelope as an SSE event.
"""

from __future__ import annotations

import logging

import msgspec

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
        message = str(error) or "The engine stopped and the request could not be resumed."
        return unavailable(message, code="engine_dead")
    logger.error("engine error", exc_info=error)
    return internal_error()


def internal_error() -> ApiError:
    """Says nothing about the cause: paths, addresses and other people's text stay in the log."""
    return ApiError(500, "The server had an error while processing your request.", headers=NO_RETRY)
