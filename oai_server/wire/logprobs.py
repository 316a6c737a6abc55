"""Logprobs on the wire. Natural log; minus infinity is sent as -9999, since JSON has none."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from adapters.backend import Logprob, PositionLogprobs

FLOOR = -9999.0


class ChatTopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(msgspec.Struct, frozen=True):
    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""One entry a prompt token, null for the first; keys are token ids."""


def _name(logprob: Logprob, as_ids: bool) -> str:
    return f"token_id:{logprob.token_id}" if as_ids else logprob.token


def chat_logprobs(positions: Iterable[PositionLogprobs], *, as_ids: bool = False) -> ChatLogprobs:
    def shown(logprob: Logprob) -> ChatTopLogprob:
        return ChatTopLogprob(_name(logprob, as_ids), max(logprob.logprob, FLOOR), list(logprob.token_bytes))

    return ChatLogprobs(
        [
            ChatTokenLogprob(
                _name(position.chosen, as_ids),
                max(position.chosen.logprob, FLOOR),
                list(position.chosen.token_bytes),
                [shown(top) for top in position.top],
            )
            for position in positions
        ]
    )


def completion_logprobs(
    positions: Iterable[PositionLogprobs],
    *,
    as_ids: bool = False,
    prompt: tuple[PositionLogprobs | None, ...] = (),
    prompt_text: str = "",
) -> CompletionLogprobs:
    """`prompt_text`: with echo, what stands before the completion; `prompt`: its positions, if they come first.

    The very first position of a prompt has no logprob.
    """
    offsets: list[int] = []
    logprobs: list[float | None] = []
    tokens: list[str] = []
    tops: list[dict[str, float] | None] = []
    if prompt:
        second = next((position for position in prompt if position is not None), None)
        offsets.append(0)
        logprobs.append(None)
        tokens.append(prompt_text[: second.text_offset] if second is not None else prompt_text)
        tops.append(None)
    shift = len(prompt_text)
    known = [(position, 0) for position in prompt if position is not None]
    for position, start in [*known, *((position, shift) for position in positions)]:
        offsets.append(start + position.text_offset)
        logprobs.append(max(position.chosen.logprob, FLOOR))
        tokens.append(_name(position.chosen, as_ids))
        tops.append({_name(top, as_ids): max(top.logprob, FLOOR) for top in (position.chosen, *position.top)})
    return CompletionLogprobs(offsets, logprobs, tokens, tops)


def prompt_logprobs(positions: tuple[PositionLogprobs | None, ...]) -> PromptLogprobs:
    return [
        None
        if position is None
        else {
            str(entry.token_id): PromptLogprob(max(entry.logprob, FLOOR), entry.rank, entry.token)
            for entry in (position.chosen, *position.top)
        }
        for position in positions
    ]
