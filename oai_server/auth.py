"""API keys: several, compared in constant time over their hashes, checked at the routed handler.

Every handler of the application needs one, except those that say `opt={OPEN: True}`. A rule about paths would have to
know every spelling of a path; the handler that was reached has only one name.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from litestar.enums import HttpMethod, ScopeType
from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from oai_server.errors import ApiError
from oai_server.record import record_of

OPEN = "open_to_all"
"""Key of `opt` on a handler that answers without an API key."""


class KeyRing:
    """The accepted API keys, kept as SHA-256 digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def identify(self, authorization: bytes | None, api_key: bytes | None = None) -> str | None:
        """A short digest that stands for the key in `Authorization: Bearer KEY`, or else in `x-api-key: KEY`.

        None when neither is right.
        """
        scheme, _, key = (authorization or b"").partition(b" ")
        found = self._find(key) if scheme.lower() == b"bearer" else None
        if found is None and api_key is not None:
            found = self._find(api_key)
        return None if found is None else _name(found)

    def _find(self, key: bytes) -> bytes | None:
        """Takes the same time for every wrong key: all keys are compared, each by its hash."""
        digest = hashlib.sha256(key.strip()).digest()
        found = None
        for known in self._digests:
            if hmac.compare_digest(known, digest):
                found = known
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """What `identify` may return."""
        return tuple(map(_name, self._digests))


def _name(digest: bytes) -> str:
    return hashlib.sha256(b"cache salt" + digest).hexdigest()[:16]


class RequireKey(ASGIMiddleware):
    """401 unless the routed handler is open or a right key came along. Stands before the body is read.

    A Litestar guard would see the same, but the handler is copied for it on every request.
    """

    scopes = (ScopeType.HTTP,)

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        handler: BaseRouteHandler = scope["route_handler"]
        if not handler.opt.get(OPEN) and scope.get("method") != HttpMethod.OPTIONS:
            record = record_of(scope)
            authorization, api_key = record.headers.get(b"authorization"), record.headers.get(b"x-api-key")
            key = self._keys.identify(authorization, api_key)
            if key is None:
                raise ApiError(
                    401,
                    "Incorrect API key provided."
                    if authorization or api_key
                    else "You didn't provide an API key, as a Bearer token or in x-api-key.",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            record.key = key
        await next_app(scope, receive, send)
