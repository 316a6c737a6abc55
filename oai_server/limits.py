"""How many requests one API key may have running, and how many bytes of unfinished bodies there may be."""

from __future__ import annotations

from collections import Counter
from typing import NoReturn

from oai_server.errors import ApiError, unavailable
from oai_server.retry import retry_after


class KeyLimiter:
    """Counts the running requests of each key. `limit` 0: no limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._running: Counter[str] = Counter()

    def acquire(self, key: str) -> None:
        """Raises 429 when the key has all it may have. Every acquire needs its release."""
        if self.limit and self._running[key] >= self.limit:
            self.refuse()
        self._running[key] += 1

    def release(self, key: str) -> None:
        self._running[key] -= 1
        if self._running[key] <= 0:
            del self._running[key]

    def refuse(self) -> NoReturn:
        raise ApiError(
            429,
            f"This API key already has {self.limit} requests running. Please try again later.",
            code="rate_limit_exceeded",
            headers=retry_after(1),
        )

    def __len__(self) -> int:
        """Keys with running requests."""
        return len(self._running)


class ComingBodies:
    """Counts the bytes of bodies of which only a part has come: each may be large, and there may be thousands.

    `limit`: bytes of all together. A body of up to `FREE` bytes is never refused for what others send.
    """

    FREE = 1 << 20

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def add(self, size: int, of: int) -> None:
        """`size` more bytes of a body, `of` with them. Every add needs its release. Raises 503 beyond the limit."""
        self.held += size
        if self.held > self.limit and of > self.FREE:
            error = unavailable("Too many large requests are being received. Please try again later.")
            error.headers["connection"] = "close"
            raise error

    def release(self, size: int) -> None:
        self.held -= size
