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

    def feed(self, text: str) -> int:
        """Index behind the value's last character in `text`, len(text) while it is not `done`."""
        at = 0
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
    """The text of one JSON string (behind its opening quote), escape by escape; what is no character is U+FFFD."""

    __slots__ = ("_held", "_high", "done")

    def __init__(self) -> None:
        self._held = ""
        """An escape that is not whole."""
        self._high = ""
        """A high surrogate, whose other half may come."""
        self.done = False

    def feed(self, text: str) -> tuple[str, int]:
        """New text, and the index in `text` behind what was read; `done` behind the closing quote."""
        at, parts = 0, [self._high]
        while at < len(text) and not self.done:
            if self._held:
                self._held += text[at]
                at += 1
                parts.append(self._unescape())
                continue
            match = _INSIDE.search(text, at)
            end = match.start() if match else len(text)
            parts.append(text[at:end])
            at = end
            if match:
                at = match.end()
                self.done = match[0] == '"'
                self._held = "" if self.done else "\\"
        read = "".join(parts)
        self._high = read[-1:] if not self.done and "\ud800" <= read[-1:] < "\udc00" else ""
        read = read[: len(read) - len(self._high)]
        return read.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), at

    def _unescape(self) -> str:
        """The held escape's character, perhaps half of one, once it is whole."""
        held = self._held
        if held[1] == "u" and held[-1] == '"':  # the string ends inside an escape
            self._held, self.done = "", True
            return "\ufffd"
        if held[1] == "u" and len(held) < 6:
            return ""
        self._held = ""
        if held[1] != "u":
            return _ESCAPES.get(held[1], held[1])
        try:
            return chr(int(held[2:], 16))
        except ValueError:
            return "\ufffd"
