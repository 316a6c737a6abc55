"""Who may come in: keys, foreign pages, limits for each key, and what logs and metrics say of it."""

from __future__ import annotations

import hashlib
import logging
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from oai_server.auth import KeyRing
from oai_server.errors import ApiError
from oai_server.limits import KeyLimiter
from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer, live_server
from tests.support.patience import wait_for

KEY, OTHER = "sk-first-key", "sk-second-key"
OPEN = ("/health", "/livez", "/readyz", "/ping", "/version", "/metrics")
BODY = {"prompt": "a b", "max_tokens": 2}


@pytest.fixture(scope="module")
def module_server() -> Iterator[LiveServer]:
    with live_server(api_key=(KEY, OTHER), max_concurrent_requests_per_key=2, access_log=True) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        {"authorization": "Bearer"},
        {"authorization": KEY},
        {"authorization": "Basic " + KEY},
        {"authorization": f"Bearer {KEY} x"},
        {"cookie": f"key={KEY}"},
        {"x-http-method-override": "GET"},
    ],
    ids=str,
)
def test_f01_no_right_key(server: LiveServer, headers: dict[str, str]) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/generate", "/tokenize", "/v1/detokenize"):
        reply = server.client.post(path, content=b"{", headers={"content-type": "application/json", **headers})
        assert reply.status_code == 401, path
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json()["error"]["type"] == "authentication_error"
        assert reply.json()["error"]["code"] == "invalid_api_key"
    assert server.backend.requests == [] or KEY not in str(server.backend.requests)


def test_f01_key_with_other_bytes(server: LiveServer) -> None:
    line = (
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer \xff\xc3\r\n\r\n"
    )
    assert server.send(line).startswith(b"HTTP/1.1 401")


def test_f02_key_in_the_query(server: LiveServer) -> None:
    assert server.client.get(f"/v1/models?api_key={KEY}").status_code == 401


@pytest.mark.parametrize("key", [KEY, OTHER])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_right_keys(server: LiveServer, key: str, scheme: str) -> None:
    assert server.client.get("/v1/models", headers={"authorization": f"{scheme} {key}"}).status_code == 200


def test_f05_everything_else_is_closed(server: LiveServer) -> None:
    for path in (
        "/v1/models",
        "/v1/models/fake",
        "/load",
        "/openapi.json",
        "//v1/models",
        "/v1/%6dodels",
        "/health/../load",
    ):
        for method in ("GET", "HEAD"):
            assert server.client.request(method, path).status_code in (401, 404), (method, path)
    for path in OPEN:
        assert server.client.get(path).status_code == 200, path


def test_a20_preflight_without_cors(server: LiveServer) -> None:
    headers = {"origin": "https://page.example", "access-control-request-method": "POST"}
    reply = server.client.options("/v1/chat/completions", headers=headers)
    assert "access-control-allow-origin" not in reply.headers


def test_f07_salt_of_the_key_goes_with_the_request(server: LiveServer) -> None:
    salts = []
    for key, salt in ((KEY, None), (OTHER, None), (KEY, "mine"), (OTHER, "mine"), (KEY, "mine")):
        body = BODY if salt is None else {**BODY, "cache_salt": salt}
        assert server.post("/v1/completions", body, headers=bearer(key)).status_code == 200
        salts.append(server.backend.requests[-1].cache_salt)
    assert len(set(salts)) == 4 and salts[2] == salts[4]
    assert not any(key in salt for salt in salts for key in (KEY, OTHER))


def test_f08_a_key_may_only_have_so_many(server: LiveServer) -> None:
    gate = threading.Event()
    server.backend.script = Script(gate=gate)
    body = {"prompt": "a", "max_tokens": 20}
    threads = [
        threading.Thread(target=lambda: server.post("/v1/completions", body, headers=bearer(KEY))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(server.backend.live) == 2, "both run")
    server.backend.script = Script()
    refused = server.post("/v1/completions", body, headers=bearer(KEY))
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert server.post("/v1/completions", {**body, "max_tokens": 1}, headers=bearer(OTHER)).status_code == 200
    gate.set()
    for thread in threads:
        thread.join()
    assert server.post("/v1/completions", BODY, headers=bearer(KEY)).status_code == 200
    assert len(server.services.limiter) == 0


def test_h08_logs_hold_no_key_and_no_prompt_and_one_line(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="oai_server.access"):
        server.post("/v1/completions", {"prompt": "SECRET text", "max_tokens": 2}, headers=bearer(KEY))
        server.client.get("/no%0asuch%1b[31mpath?key=" + KEY)
        server.wait_idle()
        wait_for(lambda: sum(record.name == "oai_server.access" for record in caplog.records) >= 2, "two lines")
    text = caplog.text
    assert "SECRET" not in text and KEY not in text and "\x1b" not in text
    lines = [record.getMessage() for record in caplog.records if record.name == "oai_server.access"]
    assert len(lines) == 2 and not any("\n" in line for line in lines)
    assert lines[0].startswith("POST /v1/completions 200 model=fake prompt=2 completion=2 duration=")
    assert "finish=length id=cmpl-" in lines[0]
    assert lines[1].startswith("GET /no\\nsuch\\x1b[31mpath 404 ")


def test_g27_no_label_comes_from_a_client(server: LiveServer) -> None:
    for i in range(20):
        server.client.get(f"/path-{i}")
        server.client.request(f"METHOD{i}", "/health")
        server.post("/v1/completions", {**BODY, "model": f"model-{i}"}, headers=bearer(KEY))
    text = server.client.get("/metrics").text
    assert "path-1" not in text and "METHOD" not in text and "model-" not in text


# ---- without a server


def test_every_key_is_compared_by_its_hash() -> None:
    ring = KeyRing(["a", "b"])
    assert ring.identify(b"Bearer a") not in (None, ring.identify(b"Bearer b"))
    assert ring.identify(b"Bearer c") is None and ring.identify(None) is None
    assert hashlib.sha256(b"a").hexdigest()[:16] != ring.identify(b"Bearer a")


def test_wrong_keys_take_equally_long() -> None:
    ring = KeyRing(["k" * 40, *(f"key-{i}" for i in range(20))])
    near, far = b"Bearer " + b"k" * 39 + b"x", b"Bearer " + b"z" * 40

    def median_s(header: bytes) -> float:
        times = []
        for _ in range(2000):
            began = time.perf_counter()
            ring.identify(header)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    assert abs(median_s(near) - median_s(far)) < 2e-4


def test_limiter_forgets_idle_keys() -> None:
    limiter = KeyLimiter(1)
    limiter.acquire("a")
    with pytest.raises(ApiError):
        limiter.acquire("a")
    limiter.acquire("b")
    limiter.release("a")
    limiter.release("b")
    assert len(limiter) == 0


# ---- pages of strangers


@pytest.fixture(scope="module")
def local_server() -> Iterator[LiveServer]:
    with live_server(allowed_origins=("https://good.example",), allowed_hosts=("box.local",)) as server:
        yield server


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:8000", "app.localhost", "box.local:80"])
def test_f06_own_names(local_server: LiveServer, host: str) -> None:
    assert local_server.client.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "1.2.3.4:8000"])
def test_f06_dns_rebinding(local_server: LiveServer, host: str) -> None:
    reply = local_server.client.get("/v1/models", headers={"host": host})
    assert reply.status_code == 403 and reply.json()["error"]["code"] == "invalid_host"


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "http://localhost:1", "https://good.example.evil"),
        *("http://[", "http://[::1", "http://a]b", "http://a:99999999", "://", "x" * 5000),
    ],
)
def test_f06_foreign_pages(local_server: LiveServer, origin: str) -> None:
    reply = local_server.post("/v1/completions", BODY, headers={"origin": origin})
    assert reply.status_code == 403 and "access-control-allow-origin" not in reply.headers


def test_f06_a_page_of_nobody_is_not_the_server_s_own(local_server: LiveServer) -> None:
    """Neither the Host nor the Origin names anything."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost:\r\nOrigin: null\r\nContent-Type: application/json\r\n"
    reply = local_server.send(head + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
    assert reply.startswith(b"HTTP/1.1 403")


def test_own_and_allowed_pages(local_server: LiveServer) -> None:
    assert local_server.post("/v1/completions", BODY, headers={"origin": local_server.url}).status_code == 200
    good = {"origin": "https://good.example"}
    reply = local_server.post("/v1/completions", BODY, headers=good)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "https://good.example"
    assert "x-request-id" in reply.headers["access-control-expose-headers"]
    preflight = local_server.client.options(
        "/v1/chat/completions", headers={**good, "access-control-request-method": "POST"}
    )
    assert preflight.headers["access-control-allow-origin"] == "https://good.example"
    other = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in local_server.client.options("/v1/models", headers=other).headers


def test_allowed_pages_get_streams_too(local_server: LiveServer) -> None:
    reply = local_server.post("/v1/completions", {**BODY, "stream": True}, headers={"origin": "https://good.example"})
    assert reply.headers["access-control-allow-origin"] == "https://good.example"
    assert reply.text.endswith("data: [DONE]\n\n")
