"""Scanners over JSON that arrives in pieces: where a value ends, and what a string says. Linear, no look-back."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(r'["{}\[\],:<]')
_INSIDE = re.compile(r'["\\]')
_CLOSER = {"{": "}", "[": "]"}
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class ValueScanner:
    """Finds the end of one JSON value; brackets outside strings count, nothing is checked beyond that.

    "<" outside a string is no JSON: there the value ends, cut short (as at a closing tag that comes too early).
    """

    __slots__ = ("_escaped", "_in_string", "_stack", "done")

    def __init__(self, opened: str = "") -> None:
        """`opened`: closers of brackets that were opened before."""
        self._stack = list(opened)
        self._in_string = False
        self._escaped = False
        self.done = False

    def feed(self, text: str, start: int = 0) -> int:
        """Index behind the value's last character in `text`, len(text) while it is not `done`."""
        at = start
        while at < len(text):
            if self._in_string:
                at = self._string(text, at)
                if self.done:
                    return at
                continue
            match = _OUTSIDE.search(text, at)
            if match is None:
                return len(text)
            at = match.start()
            char = text[at]
            if char == '"':
                self._in_string = True
            elif char in "{[":
                self._stack.append(_CLOSER[char])
            elif char == "<" or (char in "}],:" and not self._stack):
                self.done = True
                return at
            elif char in "}]":
                self._stack.pop()
                if not self._stack:
                    self.done = True
                    return at + 1
            at += 1
        return at

    def _string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        match = _INSIDE.search(text, at)
        if match is None:
            return len(text)
        if match[0] == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self.done = not self._stack
        return match.end()

    def closing(self) -> str:
        """What closes the value if nothing more comes."""
        quote = ("\\" if self._escaped else "") + '"' if self._in_string else ""
        return quote + "".join(reversed(self._stack))


class StringDecoder:
    """The text of one JSON string (behind its opening quote), escape by escape."""

    __slots__ = ("_held", "done")

    def __init__(self) -> None:
        self._held = ""
        self.done = False

    def feed(self, text: str, start: int = 0) -> tuple[str, int]:
        """New text, and the index in `text` behind what was read; `done` behind the closing quote."""
        at, parts = start, []
        while at < len(text) and not self.done:
            if self._held:
                self._held += text[at]
                at += 1
                parts.append(self._unescape())
                continue
            match = _INSIDE.search(text, at)
            if match is None:
                parts.append(text[at:])
                return "".join(parts), len(text)
            parts.append(text[at : match.start()])
            at = match.end()
            if match[0] == "\\":
                self._held = "\\"
            else:
                self.done = True
        return "".join(parts), at

    def _unescape(self) -> str:
        """The held escape's character once it is whole; a high surrogate waits for its other half."""
        held = self._held
        if held[-1] == '"' and len(held) > 2:  # the string ends inside an escape
            self._held, self.done = "", True
            return "�"
        if held[1] != "u":
            self._held = ""
            return _ESCAPES.get(held[1], held[1])
        if len(held) == 6:
            return self._code_point(held[2:])
        if len(held) in (7, 8) and held[6:] != "\\u"[: len(held) - 6]:
            self._held = ""
            return "�" + held[6:]
        if len(held) == 12:
            self._held = ""
            return _pair(held[2:6], held[8:])
        return ""

    def _code_point(self, digits: str) -> str:
        try:
            code = int(digits, 16)
        except ValueError:
            code = 0xFFFD
        if 0xD800 <= code < 0xDC00:
            return ""
        self._held = ""
        return chr(code) if not 0xDC00 <= code < 0xE000 else "�"


def _pair(high: str, low: str) -> str:
    try:
        return (bytes.fromhex(high) + bytes.fromhex(low)).decode("utf-16-be")
    except ValueError:
        return "��"
