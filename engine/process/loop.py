"""The engine's main loop: take messages, step, send each front one message; say "alive" at least twice a second.

It runs in the main thread and does nothing else, so that a hung step shows as silence to those who listen.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from engine.errors import EngineDeadError, RequestError
from engine.process.door import Door
from engine.process.messages import (
    Cancel,
    EngineInfo,
    FrontMessage,
    Heartbeat,
    Hello,
    ResetPrefixCache,
    StepOutputs,
    Submit,
    Welcome,
)
from engine.process.preparation import Preparations, Prepared
from engine.process.recorder import StartRecorder
from engine.request import EngineRequest, EngineStats, RequestFault, RequestOutput

logger = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 0.4
HELD_S = 0.002
"""Between looks at grammars that are being compiled, when there is nothing else to do."""
QUIET_S = 0.1
"""Without a message, before an idle moment is used to prepare: one that only follows an answer ends with the client's
next request, which would wait for that."""
SETTLE_S = 3.0
"""Without work, before what is large and may never be needed is made ready."""
INTERNAL_ERROR = "The engine had an error while processing this request."


class Core(Protocol):
    """What the loop needs of engine.core.EngineCore."""

    def add_request(self, request: EngineRequest, prepared: object = None) -> None: ...

    def cancel(self, request_id: str, length: int | None = None) -> None: ...

    def step(self) -> list[RequestOutput]: ...

    def has_work(self) -> bool: ...

    def prepare(self, request: EngineRequest) -> Future[Any] | None: ...

    def settle(self) -> None: ...

    def prepare_more(self) -> bool: ...

    def stats(self) -> EngineStats: ...

    def reset_prefix_cache(self) -> object: ...


class EngineLoop:
    """One engine and its fronts. Owns which front a request belongs to."""

    def __init__(self, door: Door, core: Core, recorder: StartRecorder, info: EngineInfo, epoch: int) -> None:
        self._door = door
        self._core = core
        self._recorder = recorder
        self._info = info
        self._epoch = epoch
        self._owners: dict[str, bytes] = {}
        self._held = Preparations(core.prepare)
        self._heartbeat_due_s = 0.0
        self._preparing = True
        """Whether idle moments may still be of use to the core."""
        self._busy = False
        self._settled = False
        self._calm_since_s = time.monotonic()

    def run(self, should_stop: Callable[[], bool], should_stop_when_idle: Callable[[], bool]) -> None:
        """Until told to stop. Raises EngineDeadError (and what the core does not expect) out of a step."""
        for identity in list(self._door.fronts):
            self._door.send(identity, Welcome(self._epoch, self._info))
        while not should_stop():
            if not self._core.has_work() and not self._held and should_stop_when_idle():
                return
            self.turn()

    def turn(self) -> None:
        """Take what has arrived, or wait for it if there is nothing to do; step once."""
        wait_s = 0.0
        if not self._core.has_work():
            wait_s = QUIET_S if self._preparing else max(self._heartbeat_due_s - time.monotonic(), 0.001)
            wait_s = min(wait_s, HELD_S) if self._held else wait_s
        messages = self._door.receive(int(wait_s * 1000))
        for identity, message in messages:
            self._handle(identity, message)
        for prepared in self._held.take_ready():
            self._add(prepared)
        if self._core.has_work():
            self._emit(self._core.step())
            self._preparing = True
        elif self._preparing and not messages and not self._held:
            self._preparing = self._core.prepare_more()
        busy = self._core.has_work()
        if self._busy and not busy:  # that everything is free is news
            self._heartbeat_due_s = 0.0
        self._busy = busy
        if not self._settled:
            self._settle(calm=not (busy or messages or self._held))
        self._keep_alive()

    def _settle(self, calm: bool) -> None:
        """Once, when it has been calm for a while."""
        now = time.monotonic()
        if not calm:
            self._calm_since_s = now
        elif now - self._calm_since_s >= SETTLE_S:
            self._settled = True
            self._core.settle()

    def _handle(self, identity: bytes, message: FrontMessage) -> None:
        match message:
            case Submit():
                for request in message.requests:
                    self._hold(identity, request)
            case Cancel():
                lengths = message.lengths or (None,) * len(message.request_ids)
                for request_id, length in zip(message.request_ids, lengths, strict=False):
                    self._cancel(request_id, identity, length)
            case Hello():
                known = not self._door.introduce(identity, message)
                self._door.send(identity, Welcome(self._epoch, self._info, known))
            case ResetPrefixCache():
                self._core.reset_prefix_cache()

    def _hold(self, identity: bytes, request: EngineRequest) -> None:
        """One that is there already stays as it is."""
        if request.request_id in self._owners:
            return
        self._owners[request.request_id] = identity
        if request.grammar is not None:
            self._recorder.suspect(request.request_id)
        self._held.hold(identity, request)

    def _add(self, prepared: Prepared) -> None:
        """A request that cannot be prepared, or that the core refuses, costs that request only."""
        identity, request, result, failure = prepared
        try:
            if isinstance(failure, RequestError) and request.grammar is not None:
                raise RequestError(str(failure), request.grammar.param)  # several fields may hold the same grammar
            if failure is not None:
                raise failure
            self._core.add_request(request, result)
        except EngineDeadError:
            raise
        except Exception as error:  # whatever a request makes the core raise, the others go on
            if isinstance(error, RequestError):
                text, fault = str(error), RequestFault(error.param, error.code)
            else:
                logger.exception("request %s could not be added", request.request_id)
                text, fault = INTERNAL_ERROR, None
            del self._owners[request.request_id]
            self._recorder.discard(request.request_id)
            refusal = RequestOutput(request.request_id, (), "error", error=text, fault=fault)
            self._door.send(identity, StepOutputs(self._epoch, (refusal,)))

    def _cancel(self, request_id: str, identity: bytes, length: int | None = None) -> None:
        if self._owners.get(request_id) == identity:
            del self._owners[request_id]
            self._held.forget(request_id)
            self._recorder.discard(request_id)
            self._core.cancel(request_id, length)

    def _emit(self, outputs: list[RequestOutput]) -> None:
        fresh = self._recorder.take_fresh()
        if not outputs and not fresh:
            return
        owners = self._owners
        rows: defaultdict[bytes, list[RequestOutput]] = defaultdict(list)
        started: defaultdict[bytes, list[str]] = defaultdict(list)
        for request_id in fresh:
            if (owner := owners.get(request_id)) is not None:
                started[owner].append(request_id)
        for output in outputs:
            owner = owners.get(output.request_id)
            if output.finish_reason is not None:
                owners.pop(output.request_id, None)
                self._recorder.discard(output.request_id)
            if owner is not None:
                rows[owner].append(output)
        for identity in rows.keys() | started.keys():
            message = StepOutputs(self._epoch, tuple(rows[identity]), tuple(started[identity]))
            if not self._door.send(identity, message):
                self._part_with(identity)

    def _part_with(self, identity: bytes) -> None:
        """The front is gone, or has not read for minutes: its requests end here. It may say Hello again."""
        self._door.forget(identity)
        orphans = [request_id for request_id, owner in self._owners.items() if owner == identity]
        if orphans:
            logger.warning("a front has gone; cancelling its %d requests", len(orphans))
        for request_id in orphans:
            self._cancel(request_id, identity)

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if now < self._heartbeat_due_s:
            return
        self._heartbeat_due_s = now + HEARTBEAT_INTERVAL_S
        for identity in self._door.departed():
            self._part_with(identity)
        stats = self._core.stats()
        stats = msgspec.structs.replace(stats, num_waiting=stats.num_waiting + len(self._held))
        heartbeat = Heartbeat(self._epoch, stats)
        for identity in list(self._door.fronts):
            if not self._door.send(identity, heartbeat):
                self._part_with(identity)
