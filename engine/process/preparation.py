"""Requests that the core cannot take yet: their grammars are being compiled by threads, beside the steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from engine.request import EngineRequest

logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A request that need not wait any longer."""

    identity: bytes
    """Whose it is."""
    request: EngineRequest
    result: object
    failure: BaseException | None
    """Why it cannot be served."""


class Preparations:
    """In the order of their arrival; a request that is ready does not wait for others."""

    def __init__(self, prepare: Callable[[EngineRequest], Future[Any] | None]) -> None:
        """`prepare` begins; None: there is nothing to wait for."""
        self._prepare = prepare
        self._held: dict[str, tuple[bytes, EngineRequest, Future[Any] | None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, identity: bytes, request: EngineRequest) -> None:
        """Until `take_ready`, which may follow at once."""
        try:
            future = self._prepare(request)
        except Exception:  # say, no thread can be started: its first step will do what is missing
            logger.exception("request %s could not be prepared", request.request_id)
            future = None
        self._held[request.request_id] = identity, request, future

    def forget(self, request_id: str) -> None:
        """It is wanted no more. What nobody else waits for, and has not begun, need not begin."""
        _, _, future = self._held.pop(request_id, (None, None, None))
        if future is not None and all(future is not other for _, _, other in self._held.values()):
            future.cancel()

    def take_ready(self) -> list[Prepared]:
        if not self._held:
            return []
        ready = [(name, held) for name, held in self._held.items() if held[2] is None or held[2].done()]
        for name, _ in ready:
            del self._held[name]
        return [Prepared(identity, request, *_outcome(future)) for _, (identity, request, future) in ready]


def _outcome(future: Future[Any] | None) -> tuple[object, BaseException | None]:
    """(result, failure)"""
    if future is None:
        return None, None
    failure = future.exception()
    return (future.result() if failure is None else None), failure
