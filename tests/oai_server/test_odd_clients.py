"""Clients that speak HTTP in their own way: Java's offer of HTTP/2, HTTP/1.0, junk behind a request, no Host."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer, live_server

BODY = {"prompt": "one two three", "max_tokens": 3}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


def post(version: str = "1.1", *more: str, host: str = "Host: localhost", **fields: object) -> bytes:
    body = json.dumps({**BODY, **fields}).encode()
    lines = [
        f"POST /v1/completions HTTP/{version}",
        *([host] if host else []),
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("name", ["Upgrade", "upgrade", "UPGRADE"])
def test_an_offer_of_http_2_is_passed_over(live: LiveServer, name: str) -> None:
    """What Java's HttpClient sends with its first request; the parser would leave the body unread."""
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        f"{name}: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA",
    )
    whole = post("1.1", *offer)
    head, _, body = whole.partition(b"\r\n\r\n")
    with live.raw() as connection:
        for _ in range(2):  # the connection stays as it is
            connection.sendall(head + b"\r\n\r\n")
            time.sleep(0.02)
            connection.sendall(body)
            received = b""
            while b"one two three" not in received:
                part = connection.recv(65536)
                assert part, received
                received += part
            assert received.startswith(b"HTTP/1.1 200")
    live.check_alive()


def test_a_body_may_speak_of_upgrades(live: LiveServer) -> None:
    prompt = "one\nUpgrade: h2c"
    assert live.post("/v1/completions", {"prompt": prompt, "max_tokens": 9}).json()["usage"]["prompt_tokens"] > 1
    assert live.send(post("1.1", "Connection: close", prompt=prompt)).startswith(b"HTTP/1.1 200")


def test_a_stream_to_http_1_0_ends_with_the_connection(live: LiveServer) -> None:
    received = live.send(post("1.0", stream=True))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower() and b"connection: close" in head.lower()
    assert body.startswith(b"data: {") and body.endswith(b"data: [DONE]\n\n")
    assert b"one" in body
    live.check_alive()


def test_a_whole_answer_to_http_1_0(live: LiveServer) -> None:
    head, _, body = live.send(post("1.0", host="")).partition(b"\r\n\r\n")
    assert b" 200 " in head and json.loads(body)["choices"][0]["text"] == "one two three"


@pytest.mark.parametrize("host", ["", "Host: localhost\r\nHost: evil.example"])
def test_a_request_has_one_host(live: LiveServer, host: str) -> None:
    received = live.send(post(host=host))
    assert received.startswith(b"HTTP/1.1 400") and b"one Host header" in received
    live.check_alive()


@pytest.mark.parametrize(
    "junk", [b"\x00\x01junk\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_came_before_junk_is_answered(junk: bytes, stream: bool) -> None:
    with live_server(Script(delay_s=0.05)) as server:
        received = server.send(post(stream=stream) + junk)
        assert received.startswith(b"HTTP/1.1 200") and received.count(b"HTTP/1.1 ") == 1
        assert (b"[DONE]" if stream else b"one two three") in received
        server.check_alive()
