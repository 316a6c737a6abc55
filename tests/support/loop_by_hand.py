"""An engine's loop that a test turns by hand, with a core that only counts and a front that sends what it likes."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import msgspec
import zmq

from engine.errors import RequestError
from engine.process.door import Door
from engine.process.loop import EngineLoop
from engine.process.messages import (
    EngineInfo,
    Heartbeat,
    Progress,
    StepOutputs,
    Welcome,
    socket_path,
)
from engine.process.recorder import StartRecorder
from engine.request import EngineRequest, EngineStats, RequestOutput
from engine.sampling_params import SamplingParams
from tests.support.patience import wait_for

INFO = EngineInfo("a", 9, 9, 9, 9, 9, 9, 0, 0, "cpu", "x", "x", "x", "x", 0.0, 0)


def request(name: str) -> EngineRequest:
    return EngineRequest(name, (1, 2), SamplingParams())


class Front:
    """A plain socket that sends whatever bytes it likes."""

    def __init__(self, tmp_path: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(f"ipc://{socket_path(str(tmp_path / 'run'))}")

    def send(self, message: object) -> None:
        self.socket.send(message if isinstance(message, bytes) else msgspec.msgpack.encode(message))

    def receive(self) -> object:
        assert self.socket.poll(60_000)
        return msgspec.msgpack.decode(self.socket.recv(), type=Progress | Welcome | StepOutputs | Heartbeat)


class Core:
    """Answers every request with one token a step, until it is cancelled."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.cancelled: list[str] = []
        self.resets = 0
        self.preparations = 0
        self.settled = 0
        self.prepared: dict[str, object] = {}
        """What came with each request."""
        self.futures: dict[str, Future[str]] = {}
        """By request: what it has to wait for."""

    def add_request(self, request: EngineRequest, prepared: object = None) -> None:
        if request.request_id == "refused":
            raise RequestError("not this one")
        if request.request_id == "broken":
            raise KeyError("a detail that nobody outside should read")
        self.live[request.request_id] = 0
        self.prepared[request.request_id] = prepared

    def cancel(self, request_id: str, length: int | None = None) -> None:
        self.live.pop(request_id, None)
        self.cancelled.append(request_id if length is None else f"{request_id} at {length}")

    def step(self) -> list[RequestOutput]:
        for name in self.live:
            self.live[name] += 1
        return [RequestOutput(name, (count,)) for name, count in self.live.items()]

    def has_work(self) -> bool:
        return bool(self.live)

    def prepare(self, request: EngineRequest) -> Future[str] | None:
        if request.request_id == "unprepared":
            raise RuntimeError("can't start new thread")
        return self.futures.get(request.request_id)

    def settle(self) -> None:
        self.settled += 1

    def prepare_more(self) -> bool:
        self.preparations -= self.preparations > 0
        return self.preparations > 0

    def stats(self) -> EngineStats:
        return EngineStats(num_running=len(self.live))

    def reset_prefix_cache(self) -> None:
        self.resets += 1


class Engine:
    """A loop that a test turns by hand."""

    def __init__(self, door: Door, tmp_path: Path) -> None:
        self.core = Core()
        self.recorder = StartRecorder(str(tmp_path / "run"), 3)
        self.loop = EngineLoop(door, self.core, self.recorder, INFO, 3)

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.turn()


def read_until(front: Front, engine: Engine, kind: type) -> object:
    heard: list[object] = []

    def has_come() -> bool:
        engine.turn()
        if front.socket.poll(20):
            heard.append(front.receive())
        return bool(heard) and isinstance(heard[-1], kind)

    wait_for(has_come, kind.__name__)
    return heard[-1]
