"""`usage` of replies."""

from __future__ import annotations

import msgspec

from adapters.backend import Usage


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class UsageBody(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, usage: Usage, completion_tokens: int | None = None) -> UsageBody:
        """`completion_tokens`: of one choice, instead of all."""
        completion = usage.completion_tokens if completion_tokens is None else completion_tokens
        return cls(
            usage.prompt_tokens,
            usage.prompt_tokens + completion,
            completion,
            PromptTokensDetails(usage.cached_tokens),
            CompletionTokensDetails(usage.reasoning_tokens),
        )

    @classmethod
    def of_choice(cls, usage: Usage, index: int) -> UsageBody:
        """Of one choice so far, for continuous_usage_stats."""
        counts = usage.completion_tokens_by_choice
        return cls.of(usage, counts[index] if index < len(counts) else None)
