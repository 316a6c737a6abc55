"""Errors as Anthropic's clients read them: `{"type": "error", "error": {"type", "message"}, "request_id"}`."""

from __future__ import annotations

from typing import Literal

import msgspec

from oai_server.errors import ApiError
from oai_server.wire.chunks import json_bytes

TYPE_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
TOO_LONG = "prompt is too long: "
"""Agents look for these words, and then shorten the conversation by themselves."""


class MessagesErrorDetail(msgspec.Struct, frozen=True):
    type: str
    message: str


class MessagesErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    type: Literal["error"] = "error"
    error: MessagesErrorDetail
    request_id: str


def error_body(error: ApiError, request_id: str) -> bytes:
    """JSON. There is no place for a parameter's name beside the message, so the message begins with it."""
    kind = TYPE_BY_STATUS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    message = error.message
    if error.param and error.param not in message:
        message = f"{error.param}: {message}"
    if error.code == "context_length_exceeded" and error.param != "max_tokens":
        message = TOO_LONG + error.message
    return json_bytes(MessagesErrorBody(error=MessagesErrorDetail(kind, message), request_id=request_id))


def error_event(error: ApiError, request_id: str) -> bytes:
    """The end of a stream that failed."""
    return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"
