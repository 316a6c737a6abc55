"""POST /v1/completions."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from oai_server.wire.logprobs import CompletionLogprobs, PromptLogprobs
from oai_server.wire.sampling import SamplingFields
from oai_server.wire.usage import UsageBody


class CompletionRequest(SamplingFields, frozen=True, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None
    """A text, several texts, token ids, or several lists of token ids; not mixed."""
    logprobs: int | None = None
    add_special_tokens: bool | None = None
    suffix: Any = None


class CompletionChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: int | str | None
    token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody
    system_fingerprint: str
    service_tier: None = None
