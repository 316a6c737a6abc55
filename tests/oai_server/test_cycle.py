"""Our response writer sends what uvicorn's own sends, byte for byte, in fewer writes."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from oai_server.cycle import LeanCycle
from oai_server.record import RequestRecord
from tests.support.live_server import live_server

BODY = b'{"a": 1}'
JSON = (b"content-type", b"application/json")


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True


class Sent:
    """What became of the messages of one response."""

    def __init__(self, kind: type[RequestResponseCycle], method: str, keep_alive: bool) -> None:
        self.transport = Transport()
        self.flow = FlowControl(self.transport)  # type: ignore[arg-type]
        self.ended = 0
        self.cycle = kind(
            scope={"method": method},  # type: ignore[arg-type, typeddict-item]
            transport=self.transport,  # type: ignore[arg-type]
            flow=self.flow,
            logger=logging.getLogger("test"),
            access_logger=logging.getLogger("test"),
            access_log=False,
            default_headers=[(b"date", b"now")],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self.end,
        )

    def end(self) -> None:
        self.ended += 1

    async def send(self, *messages: Any) -> str:
        """The name of the error, if there was one."""
        try:
            for message in messages:
                await self.cycle.send(message)
        except RuntimeError as error:
            return str(error)
        return ""

    @property
    def state(self) -> tuple[object, ...]:
        cycle = self.cycle
        ended = (cycle.response_complete, cycle.message_event.is_set(), cycle.keep_alive, self.ended)
        return b"".join(self.transport.writes), self.transport.closed, ended


def start(status: int = 200, length: int | None = len(BODY), *more: tuple[bytes, bytes]) -> dict[str, Any]:
    sized = [] if length is None else [(b"content-length", b"%d" % length)]
    return {"type": "http.response.start", "status": status, "headers": [JSON, *sized, *more]}


def part(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


RESPONSES: dict[str, tuple[int, tuple[dict[str, Any], ...]]] = {
    "whole": (1, (start(), part(BODY))),
    "error": (1, (start(404), part(BODY))),
    "empty": (1, (start(200, 0), part(b""))),
    "without a body's bytes": (2, (start(200, 0), {"type": "http.response.body"})),
    "in two parts": (3, (start(), part(BODY[:3], more=True), part(BODY[3:]))),
    "chunked": (3, (start(200, None), part(b"a" * 20, more=True), part(b""))),
    "no content": (2, (start(204, None), part(b""))),
    "closing": (2, (start(200, len(BODY), (b"connection", b"close")), part(BODY))),
    "too short": (2, (start(200, 20), part(BODY))),
    "too long": (1, (start(200, 2), part(BODY))),
    "a line break in a header": (0, (start(200, len(BODY), (b"x-a", b"1\r\nx-b: 2")), part(BODY))),
    "a NUL in a header": (0, (start(200, len(BODY), (b"x-a", b"\0")), part(BODY))),
    "twice": (1, (start(), part(BODY), part(BODY))),
}


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("name", RESPONSES)
async def test_the_bytes_are_those_of_uvicorn(name: str, method: str, keep_alive: bool) -> None:
    most_writes, messages = RESPONSES[name]
    plain, lean = Sent(RequestResponseCycle, method, keep_alive), Sent(LeanCycle, method, keep_alive)
    assert await lean.send(*messages) == await plain.send(*messages)
    assert lean.state == plain.state
    assert len(lean.transport.writes) <= len(plain.transport.writes)
    if keep_alive and method == "POST":
        assert len(lean.transport.writes) == most_writes


async def test_a_client_that_left_between_start_and_body() -> None:
    sent = Sent(LeanCycle, "POST", keep_alive=True)
    await sent.send(start())
    sent.cycle.disconnected = True
    assert await sent.send(part(BODY)) == ""
    assert sent.transport.writes == []


async def test_a_full_buffer_is_waited_for() -> None:
    sent = Sent(LeanCycle, "POST", keep_alive=True)
    sent.flow.pause_writing()
    sending = asyncio.create_task(sent.send(start(), part(BODY)))
    await asyncio.sleep(0.01)
    assert sent.transport.writes == []
    sent.flow.resume_writing()
    assert await sending == "" and b"".join(sent.transport.writes).endswith(BODY)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answered_request_leaves_nothing_to_collect(stream: bool) -> None:
    """A collection among all objects of a loaded server takes tens of milliseconds; without cycles there is none."""
    body = json.dumps({"prompt": "one two three", "max_tokens": 3, "stream": stream}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with live_server() as server:
        gc.collect()
        gc.disable()
        try:
            server.send(head + body)
            server.wait_idle()
            assert not [found for found in gc.get_objects() if isinstance(found, RequestRecord | LeanCycle)]
        finally:
            gc.enable()
