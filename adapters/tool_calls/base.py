"""What the tool-call parsers have in common."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from adapters.backend import ToolCallDelta
from adapters.reasoning import first_tag, held_from

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"

ParserOutput = tuple[str, list[ToolCallDelta]]
"""New text outside calls, and new pieces of calls."""


class ToolCallParser(Protocol):
    """Splits one choice's content into text and calls. Concatenated over any chunking the results are the same.

    A call's first delta has id, name and empty arguments; the arguments' JSON text follows in pieces as it arrives.
    Whitespace in front of a call, and behind the last one, belongs to no text.
    """

    @property
    def num_calls(self) -> int:
        """Calls begun so far."""
        ...

    def feed(self, text: str) -> ParserOutput: ...

    def finish(self, *, complete: bool) -> ParserOutput:
        """The end of the output. `complete`: the model ended by itself, so that what it left open is closed."""
        ...


class CallWriter:
    """Collects a parser's output between two calls of `take`."""

    __slots__ = ("_calls", "_text", "num_calls")

    def __init__(self) -> None:
        self.num_calls = 0
        self._text: list[str] = []
        self._calls: list[ToolCallDelta] = []

    def text(self, text: str) -> None:
        if text:
            self._text.append(text)

    def begin(self, name: str) -> None:
        """A new call."""
        call_id = f"call_{secrets.token_hex(12)}"
        self._calls.append(ToolCallDelta(self.num_calls, call_id, name))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        """A piece of the current call's arguments."""
        if text:
            self._calls.append(ToolCallDelta(self.num_calls - 1, arguments=text))

    def take(self) -> ParserOutput:
        if not self._text and not self._calls:
            return "", []
        output = "".join(self._text), self._calls
        self._text, self._calls = [], []
        return output


class StateParser(ABC):
    """A state machine. A state takes the text at hand and returns what it leaves, None to wait for more."""

    call_tags: ClassVar[tuple[str, ...]]
    """Any of them begins a call."""

    def __init__(self) -> None:
        self._out = CallWriter()
        self._state: Callable[[str], str | None] = self._in_text
        self._rest = ""
        """What a state could not decide on yet."""
        self._raw = ""
        """What to show if no call follows; empty once there is one."""

    @property
    def num_calls(self) -> int:
        return self._out.num_calls

    def feed(self, text: str) -> ParserOutput:
        left: str | None = self._rest + text
        self._rest = ""
        while left:
            left = self._state(left)
        return self._out.take()

    def _in_text(self, text: str) -> str | None:
        """The first state: outside of calls. White space is held back, since it is dropped in front of a call."""
        at, tag = first_tag(text, self.call_tags)
        shown = len(text[: at if tag else held_from(text, self.call_tags)].rstrip())
        self._out.text(text[:shown])
        if not tag:
            self._rest = text[shown:]
            return None
        self._raw = text[shown : at + len(tag)]
        self._state = self._after(tag)
        return text[at + len(tag) :]

    @abstractmethod
    def _after(self, tag: str) -> Callable[[str], str | None]:
        """The state behind one of `call_tags`."""

    def _leave(self, text: str, stripped: str) -> str:
        """From between the tags back to text. Where no call has come, all of it was text."""
        self._state = self._in_text
        if not self._raw:
            return stripped.removeprefix(CLOSE_TAG)
        self._out.text(self._raw)
        return text
