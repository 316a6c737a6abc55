"""How much of the event loop's time a prompt may take before it goes to a thread."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    deadline_s: float
    max_chars: int


class OutOfPatienceError(Exception):
    """The template has not come to its end in time; with more patience it may."""


INLINE = Patience(deadline_s=0.01, max_chars=64 << 10)
"""Qwen's own templates render a short conversation within a millisecond."""


class InlineTrust:
    """Whether templates are tried in the event loop: not again for a while after one was slow there."""

    def __init__(self, first_pause: int = 16, longest_pause: int = 4096) -> None:
        """Pauses are counted in conversations and double each time."""
        self._next_pause = first_pause
        self._longest_pause = longest_pause
        self._left = 0

    def allows_next(self) -> bool:
        """Whether the next conversation is tried there. To be asked once for each, since pauses count them."""
        if self._left == 0:
            return True
        self._left -= 1
        return False

    def lose(self) -> None:
        """A template was slow."""
        self._left = self._next_pause
        self._next_pause = min(2 * self._next_pause, self._longest_pause)


class LoopTurn:
    """How long the event loop has been busy in its present turn, as far as those know who ask."""

    def __init__(self, most_s: float = 0.01) -> None:
        self._most_s = most_s
        self._began_s = 0.0

    async def share(self) -> None:
        """Lets others have the loop when this turn has become long: a request may hold a thousand prompts."""
        now_s = time.perf_counter()
        if self._began_s == 0.0:
            self._began_s = now_s
            asyncio.get_running_loop().call_soon(self._end)
        elif now_s - self._began_s > self._most_s:
            await asyncio.sleep(0)

    def _end(self) -> None:
        self._began_s = 0.0
