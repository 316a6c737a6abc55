"""Broken and hostile HTTP, at the level of bytes. After each case the server serves as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer, live_server
from tests.support.patience import wait_for

BODY = json.dumps({"prompt": "a b", "max_tokens": 1}).encode()


@pytest.fixture(scope="module")
def module_server() -> Iterator[LiveServer]:
    """Its time limits end nothing here: who is slow is the machine."""
    with live_server(
        header_timeout=60, body_timeout=60, keep_alive_timeout=60, max_connections=60, max_body_mib=0.1
    ) as server:
        yield server


@pytest.fixture(scope="module")
def hasty() -> Iterator[LiveServer]:
    """Its time limits are what is tested."""
    with live_server(header_timeout=0.5, body_timeout=0.7, keep_alive_timeout=1.0, max_body_mib=0.1) as server:
        yield server


def is_healthy(server: LiveServer) -> bool:
    """Over a connection of its own."""
    return httpx.get(server.url + "/health", timeout=60, verify=False).status_code == 200


def one_reply(connection: socket.socket) -> bytes:
    """Head and body of the first response, also when the connection is kept."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while not (found := re.search(rb"(?is)^.*?content-length: (\d+)\r\n.*?\r\n\r\n", received)) or (
            len(received) < found.end() + int(found[1])
        ):
            if not (part := connection.recv(65536)):
                break
            received += part
    return received


def request(line: str, *headers: str, body: bytes = b"", length: bool = True) -> bytes:
    lines = [line, "Host: localhost", *headers]
    if body and length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


POST = "POST /v1/completions HTTP/1.1"
JSON = "Content-Type: application/json"
CLOSE = "Connection: close"

CHUNKS = {
    "huge chunk": (b"ffffffffffffffff\r\nab", {400}),
    "huge chunk without its line end": (b"fffffffff", {400}),
    "huge chunk behind zeros": (b"000000000000fffffffff\r\nab", {400}),
    "negative in 64 bits": (b"8000000000000000\r\nab", {400}),
    "more than 64 bits": (b"fffffffffffffffff\r\nab", {400}),
    "second chunk huge": (b"2\r\n{}\r\nfffffffffffffff\r\n", {400}),
    "more than the limit announced": (b"7fffffff\r\n{}", {413}),
    "chunks that add up to more": (b"2\r\n{}\r\n19999\r\n", {413}),
    "bad chunk": (b"zz\r\n", {400}),
    "empty size": (b"\r\n{}\r\n0\r\n\r\n", {400}),
    "signed size": (b"-2\r\n{}\r\n0\r\n\r\n", {400}),
    "size with 0x": (b"0x2\r\n{}\r\n0\r\n\r\n", {400}),
    "space behind the size": (b"2 \r\n{}\r\n0\r\n\r\n", {400}),
    "bare LF": (b"2\n{}\n0\n\n", {400}),
    "bare CR": (b"2\r{}\r\n0\r\n\r\n", {400}),
    "no line end behind the data": (b"2\r\n{}0\r\n\r\n", {400}),
    "LF behind the data": (b"2\r\n{}\n0\r\n\r\n", {400}),
    "size too small": (b"1\r\n{}\r\n0\r\n\r\n", {400}),
    "size too large": (b"5\r\n{}\r\n0\r\n\r\n", {400}),
    "endless extension": (b"2;" + b"a" * 8000, {400}),
    "endless zeros": (b"0" * 8000, {400}),
    "control character in an extension": (b"2;a=\x00\r\n{}\r\n0\r\n\r\n", {400}),
    "bad trailer": (b"2\r\n{}\r\n0\r\nX T: 1\r\n\r\n", {400}),
    "length as trailer": (b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n", {400}),
    "many trailers": (b"2\r\n{}\r\n0\r\n" + b"X-T: 1\r\n" * 300 + b"\r\n", {431}),
    "large trailer": (b"2\r\n{}\r\n0\r\nX-T: " + b"y" * 65_536 + b"\r\n\r\n", {431}),
}
CASES = {
    "A01 unknown path": (request("GET /v1/foo HTTP/1.1", CLOSE), {404}, "unknown_url"),
    "A03 300 headers": (request("GET /health HTTP/1.1", *[f"x-{i}: 1" for i in range(300)]), {431}, None),
    "A03 64 kB header": (request("GET /health HTTP/1.1", "x: " + "y" * 65_536), {431}, None),
    "A05 two lengths": (
        request(POST, JSON, "Content-Length: 5", "Content-Length: 6", body=BODY, length=False),
        {400},
        None,
    ),
    "A05 length and chunked": (request(POST, JSON, "Transfer-Encoding: chunked", body=BODY), {400}, None),
    **{
        f"A06 {name}": (request(POST, JSON, "Transfer-Encoding: chunked", body=body, length=False), statuses, None)
        for name, (body, statuses) in CHUNKS.items()
    },
    "A07 wrong method": (request("GET /v1/chat/completions HTTP/1.1", CLOSE), {405}, "method_not_allowed"),
    "A08 DELETE": (request("DELETE /v1/models HTTP/1.1", CLOSE), {405}, "method_not_allowed"),
    "A08 PUT": (request("PUT /v1/completions HTTP/1.1", CLOSE), {405}, "method_not_allowed"),
    "A08 TRACE": (request("TRACE /health HTTP/1.1", CLOSE, "X-Secret: s3cret"), {405}, "method_not_allowed"),
    "A10 announced too large": (request(POST, JSON, "Content-Length: 99999999"), {413}, "request_too_large"),
    "A10 chunked too large": (
        request(POST, JSON, "Transfer-Encoding: chunked") + b"fffff\r\n" + b" " * 0xFFFFF + b"\r\n0\r\n\r\n",
        {413},
        "request_too_large",
    ),
    "A15 gzip": (request(POST, JSON, CLOSE, "Content-Encoding: gzip", body=BODY), {415}, None),
    "A16 text/plain": (request(POST, CLOSE, "Content-Type: text/plain", body=BODY), {415}, None),
    "A16 no type": (request(POST, CLOSE, body=BODY), {415}, None),
    "A16 form": (request(POST, CLOSE, "Content-Type: application/x-www-form-urlencoded", body=b"a=b"), {415}, None),
    "A17 utf-16": (request(POST, CLOSE, JSON + "; charset=utf-16", body=BODY), {415}, None),
    "A22 dots": (request("GET /v1/../../etc/passwd HTTP/1.1", CLOSE), {404}, "unknown_url"),
    "A22 encoded dots": (request("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", CLOSE), {404}, "unknown_url"),
    "A22 encoded NUL": (request("GET /v1/models%00 HTTP/1.1", CLOSE), {404}, None),
    "A22 long path": (request(f"GET /{'a' * 10_000} HTTP/1.1", CLOSE), {404}, "unknown_url"),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, {400}, None),
    "HTTP/9.9": (b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n", {400}, None),
    "bad header name": (request("GET /health HTTP/1.1", "x y: 1"), {400}, None),
    "control characters in the path": (b"GET /he\x01alth HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404}, None),
}


LATE = {
    "A11 body never comes": request(POST, JSON, "Content-Length: 50"),
    "A12 headers never end": b"GET /health HTTP/1.1\r\nHost: localhost\r\nx-a: ",
}


@pytest.mark.parametrize("name", CASES)
def test_refused_with_one_envelope(server: LiveServer, name: str) -> None:
    data, statuses, code = CASES[name]
    with server.raw() as connection:
        connection.sendall(data)
        check_refusal(one_reply(connection), statuses, code)


@pytest.mark.parametrize("name", LATE)
def test_what_never_ends_is_refused_in_the_same_way(hasty: LiveServer, name: str) -> None:
    check_refusal(hasty.send(LATE[name]), {408}, None)
    hasty.check_alive()


def check_refusal(reply: bytes, statuses: set[int], code: str | None) -> None:
    head, _, body = reply.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) in statuses, reply[:300]
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] in ("invalid_request_error", "server_error")
    assert code is None or error["code"] == code
    assert b"s3cret" not in reply and b"Traceback" not in reply
    assert b"application/json" in head and b"x-request-id: " in head


@pytest.mark.parametrize("pieces", [1, 2, 7, 10_000])
@pytest.mark.parametrize("tail", [b"0\r\n\r\n", b"0\r\nX-Checksum: 1\r\n\r\n", b"000;a=b\r\n\r\n"])
def test_a06_chunked_bodies_are_served_however_they_are_cut(server: LiveServer, pieces: int, tail: bytes) -> None:
    body = b"".join(b"%x;e\r\n%b\r\n" % (len(part), part) for part in (BODY[:3], BODY[3:4], BODY[4:])) + tail
    data = request(POST, JSON, CLOSE, "Transfer-Encoding: chunked", body=body, length=False)
    step = -(-len(data) // pieces)
    with server.raw() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), step):
            connection.sendall(data[at : at + step])
            if pieces > 1:
                time.sleep(0.0005)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("at", [1, 2, 3, 10])
def test_a06_huge_chunk_behind_headers_in_two_pieces(server: LiveServer, at: int) -> None:
    data = request(POST, JSON, "Transfer-Encoding: chunked")
    with server.raw() as connection:
        connection.sendall(data[:-at])
        time.sleep(0.02)
        connection.sendall(data[-at:] + b"ffffffffffffffff\r\nab")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_a06_chunks_behind_a_pipelined_request(server: LiveServer) -> None:
    first = request(POST, JSON, body=BODY)
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    second = request(POST, JSON, CLOSE, "Transfer-Encoding: chunked", body=chunk, length=False)
    assert server.send(first + second).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    ("size", "count", "status"), [(1, 3000, 200), (1, 6000, 400), (63, 1000, 200), (80, 1000, 200)]
)
def test_a06_many_small_chunks(server: LiveServer, size: int, count: int, status: int) -> None:
    """Each chunk costs as much as a large one; bodies of a few thousand bytes may come as they like."""
    chunk = b"%x\r\n%b\r\n" % (size, b" " * size)
    body = chunk * count + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    data = request(POST, JSON, "Transfer-Encoding: chunked", body=body, length=False)
    with server.raw() as connection:
        connection.sendall(data)
        assert int(one_reply(connection).split(b" ")[1]) == status


def test_a06_small_chunks_behind_a_pipelined_request(server: LiveServer) -> None:
    chunks = request(POST, JSON, "Transfer-Encoding: chunked") + b"1\r\n \r\n" * 6000
    assert server.send(request("GET /health HTTP/1.1") + chunks).count(b"HTTP/1.1 ") <= 2


def test_what_comes_behind_an_answered_request_is_not_answered_again(server: LiveServer) -> None:
    """Else the second answer would be taken for the next request's."""
    head = request(POST, "Content-Type: text/plain", "Transfer-Encoding: chunked")
    with server.raw() as connection:
        connection.sendall(head)
        assert one_reply(connection).startswith(b"HTTP/1.1 415")
        connection.sendall(b"zz\r\n")
        assert one_reply(connection) == b""


def test_a19_too_many_pipelined_requests_end_the_connection(server: LiveServer) -> None:
    """Those that were taken are answered; a client that reads nothing holds no more of them in memory."""
    reply = server.send(request("GET /health HTTP/1.1") * 5000)
    assert 60 < reply.count(b"HTTP/1.1 200") < 80 and reply.count(b"HTTP/1.1 ") < 80


def test_trailers_are_no_headers(server: LiveServer) -> None:
    """Else they could say what a proxy in front of the server keeps to itself."""
    body = b"%x\r\n%b\r\n0\r\nContent-Type: application/json\r\nX-Request-Id: forged\r\n\r\n" % (len(BODY), BODY)
    reply = server.send(request(POST, CLOSE, "Transfer-Encoding: chunked", body=body, length=False))
    assert reply.startswith(b"HTTP/1.1 415") and b"forged" not in reply


def test_405_names_the_methods(server: LiveServer) -> None:
    assert "POST" in server.client.get("/v1/chat/completions").headers["allow"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a09_old_http(server: LiveServer, version: str) -> None:
    reply = server.send(
        f"GET /health HTTP/{version}\r\n{'Connection: close' if version == '1.1' else ''}\r\n\r\n".encode()
    )
    assert reply.split(b" ")[1] in (b"200", b"400")


def test_a13_connections_beyond_the_cap_are_refused(server: LiveServer) -> None:
    connections = [server.raw() for _ in range(80)]
    refused = 0
    for connection in connections:
        connection.setblocking(False)

    def count() -> int:
        nonlocal refused
        for connection in connections:
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                refused += connection.recv(4096).startswith(b"HTTP/1.1 503")
        return refused

    try:
        wait_for(lambda: count() >= 20, "those beyond the cap hear 503")
    finally:
        for connection in connections:
            connection.close()
    wait_for(lambda: is_healthy(server), "their places are free")


def test_a13_connections_that_say_nothing_are_closed(hasty: LiveServer) -> None:
    began = time.monotonic()
    connections = [hasty.raw() for _ in range(80)]
    wait_for(lambda: all(_closed(connection) for connection in connections), "they are cut off")
    assert time.monotonic() - began >= 0.5
    for connection in connections:
        connection.close()
    hasty.check_alive()


def test_a12_slowloris(hasty: LiveServer) -> None:
    slow = [hasty.raw() for _ in range(40)]
    for connection in slow:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")

    def all_ended() -> bool:
        for connection in slow:
            with contextlib.suppress(OSError):
                connection.send(b"x")
        assert is_healthy(hasty)
        return all(_closed(connection) for connection in slow)

    wait_for(all_ended, "all are cut off")
    for connection in slow:
        connection.close()
    hasty.check_alive()


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while data := connection.recv(4096):
            assert data
        return True
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a11_a_slow_body_frees_its_place(hasty: LiveServer) -> None:
    with hasty.raw() as connection:
        began = time.monotonic()
        connection.sendall(request(POST, JSON, "Content-Length: 50"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began >= 0.7
        hasty.wait_idle()


@pytest.mark.parametrize("length", [10, 500_000])
def test_a14_expect_continue(server: LiveServer, length: int) -> None:
    with server.raw() as connection:
        connection.sendall(request(POST, JSON, "Expect: 100-continue", f"Content-Length: {length}"))
        assert connection.recv(4096).split(b" ")[1] == (b"100" if length == 10 else b"413")


def test_a18_upgrade_is_answered_as_plain_http(server: LiveServer) -> None:
    headers = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
    with server.raw() as connection:
        connection.sendall(request("GET /v1/chat/completions HTTP/1.1", *headers))
        assert connection.recv(4096).split(b" ")[1] in (b"400", b"404", b"405", b"426")


def test_a19_pipelined_requests_are_answered_in_order(server: LiveServer) -> None:
    first = request(POST, JSON, body=json.dumps({"prompt": "one", "max_tokens": 1}).encode())
    second = request(POST, JSON, CLOSE, body=json.dumps({"prompt": "two", "max_tokens": 1}).encode())
    reply = server.send(first + second)
    assert reply.count(b"HTTP/1.1 200") == 2
    assert reply.index(b'"text":"one"') < reply.index(b'"text":"two"')


def test_a21_request_ids_are_replaced_when_strange(server: LiveServer) -> None:
    for strange in ("x" * 10_000, "a b", "\x1b[31m", "a\tb", ""):
        reply = server.send(request("GET /health HTTP/1.1", CLOSE, f"X-Request-Id: {strange}"))
        sent = reply.split(b"x-request-id: ")[1].split(b"\r\n")[0] if b"x-request-id" in reply else b"req-"
        assert sent.startswith(b"req-"), strange[:20]


def test_every_answer_has_a_request_id_also_404(server: LiveServer) -> None:
    for path in ("/nope", "/health", "/v1/completions"):
        assert server.client.get(path).headers["x-request-id"]


@pytest.mark.parametrize("path", ["//v1/models", "/v1//models", "/v1/models/", "/v1/%6dodels"])
def test_spellings_of_a_path_reach_its_handler(server: LiveServer, path: str) -> None:
    reply = server.send(request(f"GET {path} HTTP/1.1", CLOSE))
    assert reply.startswith(b"HTTP/1.1 200") and b'"object":"list"' in reply


def test_g22_few_descriptors_left(server: LiveServer) -> None:
    """More connections than the cap at once, again and again: refused ones never cost a place for good."""
    for _ in range(5):
        connections = [server.raw() for _ in range(70)]
        for connection in connections:
            connection.close()
    wait_for(lambda: is_healthy(server), "their places are free")


def test_keep_alive_is_bounded(hasty: LiveServer) -> None:
    began = time.monotonic()
    reply = hasty.send(request("GET /health HTTP/1.1"))
    assert reply.startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began >= 1.0


def test_http_errors_while_a_stream_runs_leave_it_alone(server: LiveServer) -> None:
    """INV: a concurrent stream is not changed by anything above."""
    server.backend.script = Script(delay_s=0.01)
    body = {"prompt": "a b c", "max_tokens": 60, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        for name in ("A03 300 headers", "A06 bad chunk", "A10 announced too large", "no HTTP at all"):
            with server.raw() as connection:
                connection.sendall(CASES[name][0])
                assert one_reply(connection)
        text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith("data: {"))
    assert text == ("a b c" * 20)[1:]
