"""Calls as JSON between tags, the format of Qwen2.5, QwQ and Qwen3:

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>

With the name in front, as models are taught, the arguments are handed on as they arrive and in the model's spelling;
in any other order the object is read whole. Lenient where models are sloppy: no newlines, `parameters` for
`arguments`, arguments as a JSON string or left out, several objects between two tags, closing tags and brackets that
never come. What begins like a call and has no name is text after all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from adapters.tool_calls.base import CLOSE_TAG, OPEN_TAG, ParserOutput, StateParser
from adapters.tool_calls.json_scanner import StringDecoder, ValueScanner

_HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:')
_MAX_HEAD_CHARS = 1024
_UNFINISHED_TAGS = frozenset(tag[:n] for tag in (OPEN_TAG, CLOSE_TAG) for n in range(len(tag)))
_BETWEEN = " \t\r\n,[]}"
"""What may stand between the objects of one call without meaning anything."""


class HermesParser(StateParser):
    """See ToolCallParser and StateParser."""

    call_tags = (OPEN_TAG,)

    def __init__(self, tools: Sequence[dict[str, Any]]) -> None:
        """`tools` are not needed: what the model wrote is handed on whether there is such a tool or not."""
        super().__init__()
        self._object: list[str] = []
        """The object so far, while its head is not known or not the usual one."""
        self._head = ""
        """Its first characters."""
        self._scanner = ValueScanner()
        self._string = StringDecoder()
        self._scalar = ""

    def finish(self, *, complete: bool) -> ParserOutput:
        state, rest, self._rest = self._state, self._rest, ""
        if state == self._in_text and (rest.strip() or self.num_calls == 0):
            self._out.text(rest)
        elif state == self._in_call and self._raw:
            self._out.text(self._raw + rest)
        elif state == self._in_object:
            self._end_object(complete=complete)
        elif complete and state in (self._at_arguments, self._in_arguments, self._in_string, self._in_scalar):
            self._end_arguments()
        return self._out.take()

    def _after(self, tag: str) -> Callable[[str], str | None]:
        return self._in_call

    def _in_call(self, text: str) -> str | None:
        """Between the tags: before an object, or behind one."""
        left = text.lstrip(_BETWEEN)
        if left.startswith("{"):
            self._raw = self._raw and self._raw + text[: len(text) - len(left)]
            self._object, self._head, self._scanner = [], "", ValueScanner()
            self._state = self._in_object
            return left
        if left in _UNFINISHED_TAGS:
            self._rest = text
            return None
        return self._leave(text, left)

    def _in_object(self, text: str) -> str | None:
        """An object whose head is not known yet, or not the usual one."""
        seen = len(self._head)
        if seen < _MAX_HEAD_CHARS:
            self._head += text[: _MAX_HEAD_CHARS - seen]
            if (match := _HEAD.match(self._head)) and (name := _decoded(match[1])):
                self._begin(name)
                self._scalar = ""
                self._state = self._at_arguments
                return text[match.end() - seen :]
        at = self._scanner.feed(text)
        self._object.append(text[:at])
        return self._end_object(complete=True) + text[at:] if self._scanner.done else None

    def _at_arguments(self, text: str) -> str | None:
        text = text.lstrip()
        if text.startswith('"'):
            self._string = StringDecoder()
            self._state = self._in_string
            return text[1:]
        self._scanner = ValueScanner()
        if text:
            self._state = self._in_arguments if text[0] in "{[" else self._in_scalar
        return text

    def _in_arguments(self, text: str) -> str | None:
        at = self._scanner.feed(text)
        self._out.arguments(text[:at])
        return self._end_arguments() + text[at:] if self._scanner.done else None

    def _in_scalar(self, text: str) -> str | None:
        at = self._scanner.feed(text)
        self._scalar += text[:at]
        return self._end_arguments() + text[at:] if self._scanner.done else None

    def _in_string(self, text: str) -> str | None:
        piece, at = self._string.feed(text)
        self._out.arguments(piece)
        self._scalar = self._scalar or piece
        return self._end_arguments() + text[at:] if self._string.done else None

    def _in_tail(self, text: str) -> str | None:
        """Behind the arguments, in the object around them."""
        at = self._scanner.feed(text)
        if self._scanner.done:
            self._state = self._in_call
        return text[at:]

    def _begin(self, name: str) -> None:
        self._raw = ""
        self._out.begin(name)

    def _end_arguments(self) -> str:
        """Closes what is open and makes an object of nothing; no text is left over."""
        if self._state == self._in_arguments:
            self._out.arguments(self._scanner.closing())
        elif self._state == self._in_scalar:
            scalar = self._scalar.strip()
            self._out.arguments("{}" if scalar in ("", "null") else scalar)
        elif not self._scalar:
            self._out.arguments("{}")
        self._scanner = ValueScanner(opened="}")
        self._state = self._in_tail
        return ""

    def _end_object(self, *, complete: bool) -> str:
        """A call if the object is one; else text that was never one, behind which text goes on."""
        written = "".join(self._object)
        value = _decoded(written + self._scanner.closing()) if complete else None
        call = value.get("function", value) if isinstance(value, dict) else None
        name = call.get("name") if isinstance(call, dict) else None
        if isinstance(call, dict) and isinstance(name, str) and name:
            self._begin(name)
            arguments = call.get("arguments", call.get("parameters"))
            arguments = {} if arguments is None else arguments
            self._out.arguments(
                arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            )
            self._state = self._in_call
        else:
            self._out.text(self._raw + written)
            self._state = self._in_text
        return ""


def _decoded(text: str) -> Any:
    """The JSON value; None when it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
