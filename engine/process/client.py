"""A front's side of the socket, inside an asyncio loop. No torch, no tasks: everything happens in reader callbacks.

The connection comes and goes with the engine's process; a monitor socket tells when. The listener hears about every
change and about every message, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Protocol

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from engine.process.messages import (
    Cancel,
    EngineMessage,
    FrontMessage,
    Heartbeat,
    Hello,
    Progress,
    ResetPrefixCache,
    StepOutputs,
    Submit,
    Welcome,
    socket_path,
)
from engine.request import EngineRequest

logger = logging.getLogger(__name__)

MESSAGES_A_TURN = 8
"""Then other callbacks of the loop get their turn: a fast engine must not starve the streams it feeds."""
GREET_AGAIN_S = 0.05

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(EngineMessage)


class EngineListener(Protocol):
    """Called in the event loop's thread; must not block and must not raise."""

    def on_progress(self, progress: Progress) -> None: ...

    def on_welcome(self, welcome: Welcome) -> None: ...

    def on_outputs(self, outputs: StepOutputs) -> None: ...

    def on_heartbeat(self, heartbeat: Heartbeat) -> None: ...

    def on_lost(self) -> None:
        """The connection broke, nearly always because the engine's process ended."""
        ...


class EngineClient:
    """Connects to the engine of a run directory, again and again until closed."""

    def __init__(self, run_dir: str, listener: EngineListener) -> None:
        self._listener = listener
        self._address = f"ipc://{socket_path(run_dir)}"
        self._welcomed = False
        self._drain_planned = False
        self._closed = False
        self._aborted: list[str] = []
        self._stopped: dict[str, int] = {}
        """Length by id. Both wait for the end of the loop's turn."""
        self.messages_heard = 0
        """Grows with every message: a watchdog compares it with what it saw last."""
        self.outputs_heard = 0

    def open(self) -> None:
        """Needs a running loop. Returns at once; the engine may come up much later."""
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.IMMEDIATE, 1),  # nothing is queued for a connection that is not there
            (zmq.RECONNECT_IVL, 50),
            (zmq.RECONNECT_IVL_MAX, 200),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._loop.add_reader(self._monitor.FD, self._on_monitor)
        self._loop.add_reader(self._socket.FD, self._drain)
        self._socket.connect(self._address)
        self._on_monitor()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._monitor.FD)
        self._loop.remove_reader(self._socket.FD)
        self._socket.disable_monitor()
        self._context.destroy(linger=100)

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        """Only after a welcome. A request that is lost with the connection is announced by `on_lost`."""
        self._send(Submit(tuple(requests)))

    def cancel(self, request_ids: Sequence[str], lengths: Sequence[int] = ()) -> None:
        """`lengths`: see `Cancel`. All of one turn of the loop go together: a crowd that leaves is one message."""
        if not (self._aborted or self._stopped):
            self._loop.call_soon(self._send_cancels)
        if lengths:
            self._stopped.update(zip(request_ids, lengths, strict=True))
        else:
            self._aborted.extend(request_ids)

    def reset_prefix_cache(self) -> None:
        self._send(ResetPrefixCache())

    def greet(self) -> None:
        """Says Hello (again): an engine that has given this front up takes it back and answers with a Welcome."""
        if self._closed:
            return
        self._socket.getsockopt(zmq.EVENTS)  # makes ZeroMQ notice a connection that has just been made
        try:
            self._socket.send(_encoder.encode(Hello(os.getpid())), zmq.NOBLOCK)
        except zmq.Again:
            self._loop.call_later(GREET_AGAIN_S, self.greet)
        self._plan_drain()

    def _send_cancels(self) -> None:
        aborted, self._aborted = self._aborted, []
        stopped, self._stopped = self._stopped, {}
        if aborted:
            self._send(Cancel(tuple(aborted)))
        if stopped:
            self._send(Cancel(tuple(stopped), tuple(stopped.values())))

    def _send(self, message: FrontMessage) -> None:
        if self._closed:
            return
        with contextlib.suppress(zmq.Again):  # not connected: on_lost has come or will come
            self._socket.send(_encoder.encode(message), zmq.NOBLOCK)
        # ZeroMQ's descriptor is edge-triggered, and a send may swallow the edge of a message that came in.
        self._plan_drain()

    def _plan_drain(self) -> None:
        if not self._drain_planned:
            self._drain_planned = True
            self._loop.call_soon(self._drain_planned_now)

    def _drain_planned_now(self) -> None:
        self._drain_planned = False
        self._drain()

    def _drain(self) -> None:
        """Hands on at most MESSAGES_A_TURN messages; the rest follows in the loop's next turn."""
        for _ in range(MESSAGES_A_TURN):
            if self._closed:
                return
            try:
                payload = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(payload)
        self._plan_drain()

    def _take(self, payload: bytes) -> None:
        try:
            message = _decoder.decode(payload)
        except ValueError as error:
            logger.error("dropped a message of the engine that cannot be decoded: %s", error)
            return
        self.messages_heard += 1
        match message:
            case StepOutputs():
                self.outputs_heard += 1
                self._listener.on_outputs(message)
            case Heartbeat():
                self._listener.on_heartbeat(message)
            case Welcome():
                self._welcomed = True
                self._listener.on_welcome(message)
            case Progress():
                self._listener.on_progress(message)

    def _on_monitor(self) -> None:
        while not self._closed:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event = parse_monitor_message(frames)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.greet()
            elif event == zmq.EVENT_DISCONNECTED:
                self._drain_rest()
                if self._welcomed:
                    self._welcomed = False
                    self._listener.on_lost()

    def _drain_rest(self) -> None:
        """What the engine said before it died still counts."""
        while True:
            try:
                payload = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(payload)
