"""The outermost ASGI wrapper: request id, access log, counts, and the refusals that need no route.

It stands around the whole application because Litestar's middleware does not run for 404 and 405.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from oai_server.errors import CLIENT_CLOSED_REQUEST, ApiError, shutting_down
from oai_server.record import RequestRecord
from oai_server.replies import Reply
from oai_server.services import Services

access_logger = logging.getLogger("oai_server.access")

UNLOGGED = frozenset({"/health", "/livez", "/readyz", "/ping", "/metrics", "/load"})
OPEN_WHILE_DRAINING = UNLOGGED | {"/version"}
LOOPBACK_HOSTS = re.compile(
    r"localhost|[\w.-]+\.localhost|127(?:\.\d{1,3}){3}|\[::1\]|\[::ffff:127(?:\.\d{1,3}){3}\]"
)
NO_SNIFF = (b"x-content-type-options", b"nosniff")


class Connection:
    """Wraps the application's ASGI handler."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._logs = services.settings.access_log
        self._loopback = services.settings.loopback
        self._allowed_hosts = {host.lower() for host in services.settings.allowed_hosts}
        self._allowed_origins = set(services.settings.allowed_origins)
        self._own_host = lru_cache(256)(self._is_own_host)  # an instance's own: the settings belong to it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        record = RequestRecord.open(scope)
        scope.setdefault("state", {})["record"] = record
        record.send = send
        headless = record.method == "HEAD"
        # Every GET route answers HEAD; the HTTP server below still sees HEAD and sends no body.
        routed: Any = {**scope, "method": "GET"} if headless else scope

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.request_id.encode()), NO_SNIFF]
            elif headless:
                message["body"] = b""  # type: ignore[typeddict-unknown-key]
            await send(message)

        try:
            if (refusal := self._refusal(record)) is not None:
                await Reply(refusal.body(), refusal.status, refusal.headers)(scope, receive, reply)
            else:
                await self._app(routed, receive, reply)
        finally:
            record.send = None  # it knows the scope, where the record lies: a cycle that only a collection would find
            method, status = _method(record.method), record.status or CLIENT_CLOSED_REQUEST
            self._services.telemetry.count_http(method, routed.get("path_template") or "none", status)
            if self._logs and record.path not in UNLOGGED and access_logger.isEnabledFor(logging.INFO):
                access_logger.info("%s", _log_line(record))

    def _refusal(self, record: RequestRecord) -> ApiError | None:
        if self._services.draining and record.path not in OPEN_WHILE_DRAINING:
            return shutting_down()
        if self._loopback:
            return self._foreign(record.headers, record.method)
        return None

    def _foreign(self, headers: dict[bytes, bytes], method: str) -> ApiError | None:
        """On a loopback address: refuse names that a foreign page could give us (DNS rebinding) and its POSTs."""
        host = headers.get(b"host", b"")
        if host and not self._own_host(host):
            return ApiError(403, "Invalid Host header. Allow it with --allowed-hosts.", code="invalid_host")
        origin = headers.get(b"origin")
        if origin is None or method in ("GET", "HEAD", "OPTIONS"):
            return None
        text, own = origin.decode("latin-1"), host.decode("latin-1").lower()
        netloc = text.lower().partition("://")[2]
        if "*" in self._allowed_origins or text in self._allowed_origins or (own and netloc == own):
            return None
        return ApiError(
            403, "Cross-site request refused. Allow the page with --allowed-origins.", code="invalid_origin"
        )

    def _is_own_host(self, header: bytes) -> bool:
        host = header.decode("latin-1").lower()
        name = re.sub(r":\d*\Z", "", host)
        allowed = self._allowed_hosts
        return bool(LOOPBACK_HOSTS.fullmatch(name)) or "*" in allowed or name in allowed or host in allowed


def _method(method: str) -> str:
    """Bounded: a client may send any word as its method."""
    return method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE") else "OTHER"


def _log_line(record: RequestRecord) -> str:
    """One request in one line: no prompt, no key, no control characters."""
    parts = [_plain(record.method), _plain(record.path), str(record.status or "-")]
    if record.model:
        parts.append(f"model={_plain(record.model)}")
    if record.usage is not None:
        parts.append(f"prompt={record.usage.prompt_tokens} completion={record.usage.completion_tokens}")
    if record.first_token_s is not None:
        parts.append(f"ttft={record.first_token_s:.3f}s")
    parts.append(f"duration={record.seconds():.3f}s")
    if record.finish:
        parts.append(f"finish={record.finish}")
    return " ".join([*parts, f"id={_plain(record.request_id)}"])


def _plain(text: str) -> str:
    return text[:200].encode("unicode_escape").decode("ascii")
