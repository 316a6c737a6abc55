"""What is known about one HTTP request while it lives: its id, its headers, and what the access log will say."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from litestar.types import Scope, Send

from adapters.backend import Usage
from oai_server.ids import fresh_hex

SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(slots=True)
class RequestRecord:
    """Made by the outermost wrapper, filled in on the way; lies in `scope["state"]["record"]`."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    """Names in lower case; of repeated headers the last."""
    request_id: str
    """Value of `x-request-id` in the answer."""
    client_id: str | None
    """The id that the client sent, if it was a sane one."""
    reply_id: str = ""
    """`id` of the reply object."""
    started_s: float = field(default_factory=time.perf_counter)
    status: int = 0
    key: str = ""
    """Digest of the API key that let the request in; never the key."""
    model: str = ""
    usage: Usage | None = None
    first_token_s: float | None = None
    """Seconds from the request's arrival to its first token (streams)."""
    send: Send | None = None
    """The HTTP server's own; what is wrapped around it looks at the start of the response only."""
    finish: str = ""
    """finish_reason of the first choice, or why the request ended early."""

    @classmethod
    def open(cls, scope: Mapping[str, Any]) -> RequestRecord:
        headers = dict(scope["headers"])
        client_id = _sane(headers.get(b"x-request-id", b"").decode("latin-1"))
        return cls(scope["method"], scope["path"], headers, client_id or "req-" + fresh_hex(12), client_id)

    def name_reply(self, prefix: str, asked: str | None = None) -> None:
        """Sets `reply_id`: the client's id or a fresh one behind `prefix`; x-request-id becomes the same.

        `asked`: `request_id` of the body; the header goes first. A client that sent the header gets it back as sent.
        """
        self.reply_id = prefix + (self.client_id or _sane(asked or "") or self.request_id.removeprefix("req-"))
        if self.client_id is None:
            self.request_id = self.reply_id

    def seconds(self) -> float:
        return time.perf_counter() - self.started_s


def record_of(scope: Scope) -> RequestRecord:
    record: RequestRecord = scope["state"]["record"]
    return record


def _sane(text: str) -> str | None:
    return text if SANE_ID.fullmatch(text) else None
