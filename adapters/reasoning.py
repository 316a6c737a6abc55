"""Thinking split from the answer, by `<think>` and `</think>` in the text and by how the prompt ended.

Newlines next to the tags belong to neither part, so that no reply begins with two empty lines. A tool call inside an
open thought ends the thought.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Literal

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"

ThinkingState = Literal["open", "auto", "closed"]
"""How a rendered prompt ends: inside a thought; without a word on it, so that the model decides; after a thought."""


def thinking_state(tail: str) -> ThinkingState:
    """From what a rendered prompt holds behind its last turn marker."""
    opened, closed = tail.rfind(OPEN_TAG), tail.rfind(CLOSE_TAG)
    if opened > closed:
        return "open"
    return "closed" if closed >= 0 else "auto"


class _State(enum.Enum):
    UNDECIDED = enum.auto()
    REASONING = enum.auto()
    AFTER = enum.auto()
    CONTENT = enum.auto()


_FIRST = {"open": _State.REASONING, "auto": _State.UNDECIDED, "closed": _State.CONTENT}


class ReasoningSplitter:
    """One choice's text into (reasoning, content); the same pieces joined for every chunking."""

    __slots__ = ("_blank", "_ends", "_held", "_state")

    def __init__(self, start: ThinkingState, *, call_tags: Sequence[str] = ()) -> None:
        """`call_tags` begin a tool call and end an open thought; they stay in the content."""
        self._state = _FIRST[start]
        self._ends = (CLOSE_TAG, *call_tags)
        self._held = ""
        self._blank = True

    @property
    def in_reasoning(self) -> bool:
        return self._state is _State.REASONING

    def feed(self, text: str) -> tuple[str, str]:
        """New (reasoning, content)."""
        if self._state is _State.CONTENT:
            return "", text
        if self._state is _State.UNDECIDED:
            text = self._decide(text)
        reasoning = ""
        if self._state is _State.REASONING:
            reasoning, text = self._think(text)
        if self._state is _State.AFTER:
            text = text.lstrip("\n")
            if text:
                self._state = _State.CONTENT
        return reasoning, text

    def finish(self) -> tuple[str, str]:
        """What was held back at the end of the text."""
        held, self._held = self._held, ""
        return (held.rstrip("\n"), "") if self._state is _State.REASONING else ("", held)

    def _decide(self, text: str) -> str:
        self._held += text
        start = self._held.lstrip()
        if len(start) < len(OPEN_TAG) and OPEN_TAG.startswith(start):
            return ""
        text, self._held = self._held, ""
        if start.startswith(OPEN_TAG):
            self._state = _State.REASONING
            return start[len(OPEN_TAG) :]
        self._state = _State.CONTENT
        return text

    def _think(self, text: str) -> tuple[str, str]:
        """Reasoning that can be shown, and the content behind the thought's end."""
        text = self._held + text
        if self._blank:
            text = text.lstrip("\n")
        at, tag = first_tag(text, self._ends)
        if tag:
            self._held = ""
            rest = text[at + len(tag) :] if tag == CLOSE_TAG else text[at:]
            self._state = _State.AFTER
            return text[:at].rstrip("\n"), rest
        keep = held_from(text, self._ends)
        keep = len(text[:keep].rstrip("\n"))
        self._held = text[keep:]
        self._blank = self._blank and keep == 0
        return text[:keep], ""


def first_tag(text: str, tags: Sequence[str]) -> tuple[int, str]:
    """Where the first of the tags begins, and which it is; (len(text), "") if there is none."""
    found = [(at, tag) for tag in tags if (at := text.find(tag)) >= 0]
    return min(found, default=(len(text), ""))


def held_from(text: str, tags: Sequence[str]) -> int:
    """Where a tail begins that is the beginning of a tag; len(text) if none. Every tag begins with "<"."""
    at = text.rfind("<")
    if at >= 0 and any(len(text) - at < len(tag) and tag.startswith(text[at:]) for tag in tags):
        return at
    return len(text)
