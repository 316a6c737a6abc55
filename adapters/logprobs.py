"""The engine's log-probabilities with each token's text and true bytes."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.backend import Logprob, PositionLogprobs
from engine.request import TokenLogprobs
from engine.text.detokenizer import Detokenizer
from engine.text.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


def position_logprobs(
    tokenizer: Tokenizer, token_id: int, logprobs: TokenLogprobs, *, text_offset: int = 0
) -> PositionLogprobs:
    """One position: the token that is there, and the k most likely. `text_offset`: characters shown before it."""
    top = zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)
    return PositionLogprobs(
        chosen=_logprob(tokenizer, token_id, logprobs.logprob, logprobs.rank),
        top=tuple([_logprob(tokenizer, top_id, value, rank) for rank, (top_id, value) in enumerate(top, start=1)]),
        text_offset=text_offset,
    )


def prompt_logprobs(
    tokenizer: Tokenizer, prompt_token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]
) -> tuple[PositionLogprobs | None, ...]:
    """One entry a prompt token, None for the first, which nothing predicts. Offsets count the prompt's characters."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
    positions: list[PositionLogprobs | None] = []
    offset = 0
    for token_id, entry in zip(prompt_token_ids, logprobs, strict=True):
        positions.append(None if entry is None else position_logprobs(tokenizer, token_id, entry, text_offset=offset))
        offset += len(detokenizer.feed_one(token_id))
    return tuple(positions)


def _logprob(tokenizer: Tokenizer, token_id: int, value: float, rank: int) -> Logprob:
    return Logprob(
        token=tokenizer.token_text(token_id),
        token_bytes=tokenizer.token_bytes(token_id),
        token_id=token_id,
        logprob=value if value > LEAST_LOGPROB else LEAST_LOGPROB,
        rank=rank,
    )
