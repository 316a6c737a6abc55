"""A server with the bundled model as a client sees it, and what must hold of it after whatever was sent (INV)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.support.fault_tree import descendants, resident_bytes
from tests.support.patience import PATIENCE_S, wait_for

REPOSITORY = Path(__file__).parents[2]

CONTEXT = 512
CONTROL = {"prompt": "The cat", "max_tokens": 12, "temperature": 0}
GAUGES = ("oai_server:kv_blocks_used", "vllm:num_requests_running", "vllm:num_requests_waiting")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "Hello"}


class Demo:
    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid
        self.client = httpx.Client(base_url=url, timeout=PATIENCE_S, verify=False)
        self.control = self.complete(**CONTROL).json()["choices"][0]["text"]

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def complete(self, prompt: Any = "Hello", **fields: Any) -> httpx.Response:
        return self.client.post(COMPLETIONS, json={"prompt": prompt, "max_tokens": 8, **fields})

    def chat(self, *messages: Any, **fields: Any) -> httpx.Response:
        body = {"messages": list(messages) or [USER], "max_tokens": 8, **fields}
        return self.client.post(CHAT, json=body)

    def gauges(self) -> dict[str, float]:
        page = self.client.get("/metrics").text
        return {
            name: sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))
            for name in GAUGES
        }

    def memory_bytes(self) -> int:
        """Resident memory of the HTTP process and the engine together."""
        return sum(resident_bytes(pid) for pid in (self.pid, *descendants(self.pid)))

    def check_alive(self) -> None:
        """Nothing runs or holds memory, /health answers, and a greedy request gets what it always got."""
        wait_for(lambda: not any(self.gauges().values()), "nothing runs")
        assert self.client.get("/health").status_code == 200
        assert self.complete(**CONTROL).json()["choices"][0]["text"] == self.control


def check_refused(reply: httpx.Response, param: str | None, code: str | None = None) -> str:
    """A 400 in OpenAI's shape that names the field; the message."""
    assert reply.status_code == 400, reply.text[:500]
    error = check_envelope(reply)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param and (code is None or error["code"] == code), error
    return str(error["message"])


def check_envelope(reply: httpx.Response) -> dict[str, Any]:
    """OpenAI's error shape, which says nothing about the inside of the server."""
    assert reply.headers["content-type"] == "application/json" and reply.headers["x-request-id"]
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and 0 < len(error["message"]) <= 520
    for inside in ("Traceback", " object at 0x", "site-packages", '.py"', "/home/", str(REPOSITORY)):
        assert inside not in error["message"], error
    return error


def check_answered(reply: httpx.Response) -> None:
    """A whole answer or a stream with an end; JSON without NaN. `/v1/responses` has no [DONE], but a last event."""
    assert reply.status_code == 200, reply.text[:500]
    events = [reply.text]
    if reply.headers["content-type"].startswith("text/event-stream"):
        events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
        if events[-1] == "[DONE]":
            del events[-1]
        else:
            assert json.loads(events[-1])["type"] in ("response.completed", "response.incomplete"), events[-1]
    for event in events:
        assert not json.loads(event, parse_constant=_no_json).get("error"), event


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def address(bait: socket.socket) -> str:
    """Of a socket that listens."""
    return f"http://127.0.0.1:{bait.getsockname()[1]}/x.png"
