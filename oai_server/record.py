"""What is known about one HTTP request while it lives: its id, its headers, and what the access log will say."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from litestar.types import Send

from adapters.backend import Usage
from oai_server.ids import fresh_hex

SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
SANE_ID_TEXT = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


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
        sent = headers.get(b"x-request-id")
        client_id = sent.decode("ascii") if sent is not None and SANE_ID.fullmatch(sent) else None
        return cls(scope["method"], scope["path"], headers, client_id or "req-" + fresh_hex(12), client_id)

    def reply_id(self, prefix: str, asked: str | None = None) -> str:
        """Id of the reply object: the client's id or a fresh one behind `prefix`; x-request-id becomes the same.

        `asked`: `request_id` of the body; the header goes first. A client that sent the header gets it back as sent.
        """
        if asked is not None and not SANE_ID_TEXT.fullmatch(asked):
            asked = None
        reply = prefix + (self.client_id or asked or self.request_id.removeprefix("req-"))
        if self.client_id is None:
            self.request_id = reply
        return reply

    def seconds(self) -> float:
        return time.perf_counter() - self.started_s
