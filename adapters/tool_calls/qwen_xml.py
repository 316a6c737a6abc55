"""Calls as XML-like tags, the format of Qwen3-Coder and Qwen3.5 and later:

<tool_call>
<function=get_weather>
<parameter=city>
Paris
</parameter>
</function>
</tool_call>

A value is raw text without its first and last newline; the tool's schema says what it is in JSON. Strings are handed
on from their first character, other values when they are whole. Lenient where models are sloppy: `<tool_call>` left
out, closing tags left out, quoted function names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from adapters.reasoning import first_tag, held_from
from adapters.tool_calls.base import CLOSE_TAG, OPEN_TAG, ParserOutput, StateParser
from adapters.tool_calls.parameter_types import OPTIONAL_STRING, STRING_ONLY, ParameterTypes, as_json, escaped

FUNCTION = "<function="
PARAMETER = "<parameter="
END_FUNCTION = "</function>"
END_PARAMETER = "</parameter>"

_ENDS_OF_VALUE = (END_PARAMETER, PARAMETER, END_FUNCTION, CLOSE_TAG)
"""All but the first count at the beginning of a line only: a value may speak of them."""
_ALL_TAGS = (OPEN_TAG, CLOSE_TAG, FUNCTION, PARAMETER, END_FUNCTION)
_MAX_NAME_CHARS = 512


class QwenXMLParser(StateParser):
    """See ToolCallParser and StateParser."""

    call_tags = (OPEN_TAG, FUNCTION)

    def __init__(self, tools: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self._types = ParameterTypes(tools)
        self._name = ""
        self._num_parameters = 0
        self._kinds = STRING_ONLY
        self._value: list[str] = []
        """The value so far while it may not be a string."""
        self._streams = False
        """The value is a string for sure and handed on as it comes."""
        self._fresh = True
        """The value has not begun: one newline is dropped."""
        self._line_start = False
        """What comes next stands at the beginning of a line."""

    def finish(self, *, complete: bool) -> ParserOutput:
        state, rest, self._rest = self._state, self._rest, ""
        if state == self._in_text and (rest.strip() or self.num_calls == 0):
            self._out.text(rest)
        elif state in (self._in_call, self._in_name) and self._raw:
            self._out.text(self._raw + rest)
        elif state == self._in_value and complete:
            self._add_value(rest.removesuffix("\n"))
            self._end_value()
            self._end_call()
        elif state in (self._in_function, self._in_key) and complete:
            self._end_call()
        return self._out.take()

    def _after(self, tag: str) -> Callable[[str], str | None]:
        return self._in_call if tag == OPEN_TAG else self._in_name

    def _in_call(self, text: str) -> str | None:
        """Between the tags: before a function, or behind one."""
        left = text.lstrip()
        if left.startswith(FUNCTION):
            self._raw = self._raw and self._raw + text[: len(text) - len(left)] + FUNCTION
            self._state = self._in_name
            return left.removeprefix(FUNCTION)
        if any(tag.startswith(left) and tag != left for tag in (FUNCTION, OPEN_TAG, CLOSE_TAG)):
            self._rest = text
            return None
        return self._leave(text, left)

    def _in_name(self, text: str) -> str | None:
        at = text.find(">", 0, _MAX_NAME_CHARS + 1)
        written = text[:at] if at >= 0 else ""
        name = written.strip().strip("\"'").strip()
        if at < 0 and len(text) <= _MAX_NAME_CHARS and "\n" not in text:
            self._rest = text
            return None
        if not name or "\n" in written:
            self._out.text(self._raw or FUNCTION)
            self._state = self._in_text
            return text
        self._raw = ""
        self._name, self._num_parameters = name, 0
        self._out.begin(name)
        self._state = self._in_function
        return text[at + 1 :]

    def _in_function(self, text: str) -> str | None:
        """Between parameters; anything but tags means nothing."""
        at, tag = first_tag(text, _ALL_TAGS)
        if not tag:
            self._rest = text[held_from(text, _ALL_TAGS) :]
            return None
        if tag == PARAMETER:
            self._state = self._in_key
            return text[at + len(tag) :]
        self._end_call()
        return text[at:].removeprefix(END_FUNCTION)

    def _in_key(self, text: str) -> str | None:
        at = text.find(">", 0, _MAX_NAME_CHARS + 1)
        if at < 0 and len(text) <= _MAX_NAME_CHARS:
            self._rest = text
            return None
        key = text[: at if at >= 0 else _MAX_NAME_CHARS].strip().strip("\"'")
        self._out.arguments(f"{', ' if self._num_parameters else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        self._num_parameters += 1
        self._kinds = self._types.kinds(self._name, key)
        self._value, self._fresh = [], True
        self._streams = self._kinds == STRING_ONLY
        if self._streams:
            self._out.arguments('"')
        self._state = self._in_value
        return text[at + 1 :] if at >= 0 else text[_MAX_NAME_CHARS:]

    def _in_value(self, text: str) -> str | None:
        if self._fresh:
            self._fresh = False
            self._line_start = text[0] == "\n"
            text = text[self._line_start :]
        at, tag = self._end_of_value(text)
        if tag:
            self._add_value(text[:at].removesuffix("\n"))
            self._end_value()
            self._state = self._in_function
            return text[at:].removeprefix(END_PARAMETER)
        shown = len(text[: held_from(text, _ENDS_OF_VALUE)].removesuffix("\n"))
        self._add_value(text[:shown])
        self._rest = text[shown:]
        return None

    def _end_of_value(self, text: str) -> tuple[int, str]:
        """The first tag that ends the value; an empty one if none does."""
        at = text.find("<")
        while at >= 0:
            tag = next((tag for tag in _ENDS_OF_VALUE if text.startswith(tag, at)), "")
            line_start = text[at - 1] == "\n" if at else self._line_start
            if tag == END_PARAMETER or (tag and line_start):
                return at, tag
            at = text.find("<", at + 1)
        return len(text), ""

    def _add_value(self, piece: str) -> None:
        if not piece:
            return
        self._line_start = False
        if not self._streams:
            self._value.append(piece)
            if self._kinds != OPTIONAL_STRING or "null".startswith(piece := "".join(self._value)):
                return
            self._out.arguments('"')
            self._streams = True
        self._out.arguments(escaped(piece))

    def _end_value(self) -> None:
        self._out.arguments('"' if self._streams else as_json("".join(self._value), self._kinds))

    def _end_call(self) -> None:
        self._out.arguments("}" if self._num_parameters else "{}")
        self._state = self._in_call
