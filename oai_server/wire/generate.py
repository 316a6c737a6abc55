"""The classic POST /generate and /generate_stream."""

from __future__ import annotations

from typing import Literal

import msgspec

from oai_server.wire.usage import UsageBody


class GenerateRequest(msgspec.Struct, frozen=True):
    prompt: str
    max_tokens: int | None = None
    """Default: 128."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    """For /generate; /generate_stream always streams."""


class GenerateReply(msgspec.Struct, frozen=True):
    id: str
    model: str
    text: str
    finish_reason: Literal["stop", "length"] | None
    usage: UsageBody
