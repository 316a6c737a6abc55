"""Requests that the core cannot take yet: their grammars are being compiled by threads, beside the steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from engine.request import EngineRequest


class Preparations:
    """In the order of their arrival; a request that is ready does not wait for others."""

    def __init__(self, prepare: Callable[[EngineRequest], Future[None] | None]) -> None:
        """`prepare` begins; None: there is nothing to wait for."""
        self._prepare = prepare
        self._held: dict[str, tuple[bytes, EngineRequest, Future[None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, identity: bytes, request: EngineRequest) -> bool:
        """Whether it has to wait."""
        future = self._prepare(request)
        if future is None:
            return False
        self._held[request.request_id] = identity, request, future
        return True

    def forget(self, request_id: str) -> None:
        """It is wanted no more. What has begun goes on, since others may want the same."""
        self._held.pop(request_id, None)

    def take_ready(self) -> list[tuple[bytes, EngineRequest, BaseException | None]]:
        """Those that need not wait any longer; with an error where preparing them failed."""
        if not self._held:
            return []
        names = [name for name, (_, _, future) in self._held.items() if future.done()]
        ready = [self._held.pop(name) for name in names]
        return [(identity, request, future.exception()) for identity, request, future in ready]
