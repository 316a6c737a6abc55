"""Stop strings over a stream of text: what could still become one is held back, nothing else is."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches one choice's text. The match that is complete first wins, of several at once the first listed."""

    __slots__ = ("_first_chars", "_held", "_include", "_longest", "_stops", "matched")

    def __init__(self, stops: Sequence[str], *, include_in_output: bool = False) -> None:
        """No stop may be empty."""
        self._stops = tuple(stops)
        self._include = include_in_output
        self._first_chars = frozenset(stop[0] for stop in stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text."""

    def feed(self, text: str, *, armed: bool = True) -> str:
        """Text that can be shown now. Not `armed` (min_tokens): a stop that this text completes does not count."""
        if self.matched is not None or not text:
            return ""
        if not self._held and self._first_chars.isdisjoint(text):
            return text
        seen = len(self._held)
        text = self._held + text
        if armed and (found := self._earliest(text, seen)):
            end, stop = found
            self.matched, self._held = stop, ""
            return text[: end if self._include else end - len(stop)]
        keep = self._held_from(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """What was held back and did not become a stop."""
        held, self._held = self._held, ""
        return held

    def _earliest(self, text: str, seen: int) -> tuple[int, str] | None:
        """End and stop string of the match that ends first, but after `seen` characters."""
        best: tuple[int, str] | None = None
        for stop in self._stops:
            at = text.find(stop, max(0, seen - len(stop) + 1))
            if at >= 0 and (best is None or at + len(stop) < best[0]):
                best = (at + len(stop), stop)
        return best

    def _held_from(self, text: str) -> int:
        """Where the longest tail begins that is the beginning of a stop string; len(text) if none."""
        for i in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[i] in self._first_chars and any(stop.startswith(text[i:]) for stop in self._stops):
                return i
        return len(text)
