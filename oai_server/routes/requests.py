"""From a checked wire request to what the backend takes; shared by all routes that generate."""

from __future__ import annotations

from os import urandom

from adapters.backend import GenerationParams, GenerationRequest, Prompt
from oai_server.record import RequestRecord
from oai_server.services import Services
from oai_server.wire.decoding import HttpRequest


def record_of(request: HttpRequest) -> RequestRecord:
    record: RequestRecord = request.scope["state"]["record"]
    return record


def generation_request(
    services: Services,
    record: RequestRecord,
    prompt: Prompt,
    params: GenerationParams,
    *,
    reply_id: str,
    stream: bool,
    priority: int = 0,
    cache_salt: str | None = None,
) -> GenerationRequest:
    """The engine's id is the reply's with a random end: a client may send the same X-Request-Id twice."""
    return GenerationRequest(
        request_id=f"{reply_id}-{urandom(4).hex()}",
        prompt=prompt,
        params=params,
        stream=stream,
        priority=priority,
        cache_salt=f"{record.key}:{cache_salt or ''}" if record.key or cache_salt else "",
        deadline_s=services.settings.request_timeout or None,
    )
