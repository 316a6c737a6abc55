"""Ending a request from outside: its client has gone, or the server shuts down.

The request's own task is cancelled, and where the block ends the cancellation becomes the ApiError that explains it.
Waiting costs nothing this way: no second task per wait, no flag to poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from litestar.types import Receive

from oai_server.errors import ApiError, ClientGoneError

ON_LOST = "oai_server.on_lost"
"""Scope extension: the connection's LostConnection, from our own HTTP protocol."""


class LostConnection:
    """Whether a connection is lost, and what is called at the moment it is."""

    __slots__ = ("_calls", "lost")

    def __init__(self) -> None:
        self._calls: set[Callable[[], None]] = set()
        self.lost = False

    def add(self, call: Callable[[], None]) -> None:
        self._calls.add(call)

    def discard(self, call: Callable[[], None]) -> None:
        self._calls.discard(call)

    def lose(self) -> None:
        self.lost = True
        for call in list(self._calls):
            call()


class Interruptible:
    """`async with Interruptible(live, scope, receive):` a block that `interrupt` can end.

    `live` is the set of all such blocks of this process. With the scope and `receive` of a request whose body has
    been read, its client's departure interrupts the block with ClientGoneError: our own protocol says so through the
    scope's ON_LOST; under another server a task listens.
    """

    def __init__(
        self, live: set[Interruptible], scope: Mapping[str, Any] | None = None, receive: Receive | None = None
    ) -> None:
        self._live = live
        self._receive = receive
        self._on_lost: LostConnection | None = ((scope or {}).get("extensions") or {}).get(ON_LOST)
        self._task: asyncio.Task[object] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._error: ApiError | None = None

    def interrupt(self, error: ApiError) -> None:
        """End the block with `error`. The first interruption counts."""
        if self._error is None and self._task is not None:
            self._error = error
            self._task.cancel()

    @property
    def ends_with_error(self) -> bool:
        """Whether it is interrupted while its client is there and will be told."""
        return self._error is not None and not isinstance(self._error, ClientGoneError)

    async def __aenter__(self) -> Self:
        if self._on_lost is not None and self._on_lost.lost:
            raise ClientGoneError  # a block that never waits would not meet its cancellation before its end
        self._task = asyncio.current_task()
        self._live.add(self)
        if self._on_lost is not None:
            self._on_lost.add(self._lose_client)
        elif self._receive is not None:
            self._watch = asyncio.get_running_loop().create_task(self._watch_client(self._receive))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.discard(self)
        if self._on_lost is not None:
            self._on_lost.discard(self._lose_client)
        elif self._watch is not None:
            self._watch.cancel()
        task, self._task = self._task, None
        if self._error is None or task is None or kind is GeneratorExit:
            return
        if kind is None or not issubclass(kind, asyncio.CancelledError):
            await _absorb_cancellation()
        task.uncancel()
        if kind is None or issubclass(kind, asyncio.CancelledError):
            raise self._error from None

    async def _watch_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._lose_client()

    def _lose_client(self) -> None:
        self.interrupt(ClientGoneError())


async def _absorb_cancellation() -> None:
    """Take delivery of a cancellation that was asked for but has not arrived yet."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return
