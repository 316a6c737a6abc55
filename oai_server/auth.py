"""API keys: several, compared in constant time over their hashes, checked by a guard on the routed handler.

The guard stands on the whole application; handlers that need no key say so with `opt={OPEN: True}`. A rule about
paths would have to know every spelling of a path; the handler that was reached has only one name.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from oai_server.errors import ApiError
from oai_server.record import RequestRecord
from oai_server.services import services_of

OPEN = "open_to_all"
"""Key of `opt` on a handler that answers without an API key."""


class KeyRing:
    """The accepted API keys, kept as SHA-256 digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def identify(self, authorization: bytes | None) -> str | None:
        """A short digest that stands for the key in `Authorization: Bearer KEY`; None when no key matches.

        Takes the same time for every wrong key: all keys are compared, each by its hash.
        """
        scheme, _, key = (authorization or b"").partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found = None
        for known in self._digests:
            if hmac.compare_digest(known, digest):
                found = known
        if scheme.lower() != b"bearer" or found is None:
            return None
        return hashlib.sha256(b"cache salt" + found).hexdigest()[:16]


def require_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Litestar guard: 401 unless the handler is open or a right key came along. Runs before the body is read."""
    keys = services_of(connection).keys
    if not keys or handler.opt.get(OPEN):
        return
    record: RequestRecord = connection.scope["state"]["record"]
    authorization = record.headers.get(b"authorization")
    key = keys.identify(authorization)
    if key is None:
        message = (
            "Incorrect API key provided."
            if authorization
            else "You didn't provide an API key. Send one as a Bearer token."
        )
        raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
    record.key = key
