"""From the raw request to a typed Struct. Everything that can be wrong with bytes ends here, as a 4xx.

Litestar's own body handling is not used: it answers 500 to bad UTF-8 and deep nesting, coerces strings to numbers,
and parses any content type as JSON, which would let a foreign page's "simple" POST through.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeVar

import msgspec
from litestar import Request
from litestar.types import Receive, Scope

from oai_server.errors import ApiError, ClientGoneError, invalid
from oai_server.limits import ComingBodies
from oai_server.record import RequestRecord, record_of
from oai_server.services import Services, services_of

T = TypeVar("T")
HttpRequest = Request[Any, Any, Any]


class Incoming(NamedTuple):
    """A request as its handler gets it: what is known of it, and where its body comes from."""

    scope: Scope
    receive: Receive

    @property
    def services(self) -> Services:
        return services_of(self.scope)

    @property
    def record(self) -> RequestRecord:
        return record_of(self.scope)


AT_PATH = re.compile(r"(?P<text>.*) - at `\$\.?(?P<path>.*)`", re.DOTALL)
MISSING_FIELD = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
UTF8_NAMES = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
LARGE_BODY_BYTES = 4 << 20
MAX_CONTAINERS = 1_000_000
MAX_FIELDS = 500_000
MAX_VALUES = 4_000_000
"""Most of each that a body above LARGE_BODY_BYTES may hold, counted roughly. Large texts are fine; many small values
would hold the event loop for seconds and take a hundred times their size in memory.
"""


async def read_body(request: Incoming) -> bytes:
    """The raw body. Raises 415 for anything but plain JSON, 413 beyond the limit (before all of it has come)."""
    headers = request.record.headers
    if (content_type := headers.get(b"content-type")) != b"application/json":
        _check_content_type(content_type)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ApiError(415, "Compressed request bodies are not accepted (Content-Encoding).")
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise ApiError(415, "No transfer coding but chunked is accepted (Transfer-Encoding).")
    services = request.services
    limit = int(services.settings.max_body_mib * 2**20)
    if int(headers.get(b"content-length", b"0")) > limit:
        raise too_large(limit)
    receive = request.receive
    message = await receive()
    if message["type"] == "http.request" and not message["more_body"]:
        body = message["body"]
        if len(body) > limit:
            raise too_large(limit)
        return body
    return await _collected(receive, message, limit, services.bodies)


async def _collected(receive: Receive, message: Any, limit: int, bodies: ComingBodies) -> bytes:
    """A body that comes in pieces, of which `message` is the first."""
    parts = []
    size = 0
    try:
        while message["type"] == "http.request":
            size += len(message["body"])
            bodies.add(len(message["body"]), size)
            if size > limit:
                raise too_large(limit)
            parts.append(message["body"])
            if not message["more_body"]:
                return b"".join(parts)
            message = await receive()
    finally:
        bodies.release(size)
    raise ClientGoneError


def too_large(limit: int) -> ApiError:
    message = f"The request body is larger than the limit of {limit} bytes."
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})


def _check_content_type(content_type: bytes | None) -> None:
    kind, _, parameters = (content_type or b"").decode("latin-1").lower().partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters)
    if kind.strip() != "application/json":
        raise ApiError(415, "Unsupported Media Type: Only 'application/json' is allowed")
    if charset is not None and charset[1] not in UTF8_NAMES:
        raise ApiError(415, "Unsupported Media Type: the charset must be utf-8")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as `decoder`'s Struct. Types are strict: a number in quotes is an error that names the field."""
    if len(body) > LARGE_BODY_BYTES:
        _check_amount(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _type_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, msgspec.DecodeError) else "invalid UTF-8"
        raise invalid(f"We could not parse the JSON body of your request: {reason}", code="invalid_json") from None
    except (RecursionError, OverflowError):
        raise invalid("The JSON body of your request is nested too deeply.", code="invalid_json") from None


def _check_amount(body: bytes) -> None:
    containers = body.count(b"[") + body.count(b"{")
    if containers > MAX_CONTAINERS or body.count(b'":') > MAX_FIELDS or body.count(b",") > MAX_VALUES:
        raise ApiError(413, "The request body holds too many values.", code="request_too_large")


def _type_error(text: str) -> ApiError:
    found = AT_PATH.fullmatch(text)
    message, path = (found["text"], found["path"]) if found else (text, "")
    if (missing := MISSING_FIELD.fullmatch(message)) is not None:
        path = f"{path}.{missing['name']}" if path else missing["name"]
        return invalid(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    place = path if path.startswith(("messages", "tools")) else re.split(r"[.\[]", path)[0]
    return invalid(f"Invalid type for '{path}': {message}." if path else message, place or None, "invalid_type")


async def read_json(request: Incoming, decoder: msgspec.json.Decoder[T]) -> T:
    return decode(await read_body(request), decoder)
