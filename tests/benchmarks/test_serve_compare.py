"""The command that compares two servers measures those that it started."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from benchmarks.serve_compare import Server

HEALTHY = """
import http.server, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    script = tmp_path / "healthy.py"
    script.write_text(HEALTHY)
    return f"{sys.executable} {script}"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_is_started_waited_for_and_stopped(command: str, port: int, tmp_path: Path) -> None:
    server = Server(f"{command} {port}", port, tmp_path / "log", 60)
    assert server.process.poll() is None
    server.stop()
    assert server.process.poll() is not None


def test_nobody_else_is_measured(command: str, port: int, tmp_path: Path) -> None:
    server = Server(f"{command} {port}", port, tmp_path / "log", 60)
    with pytest.raises(RuntimeError, match=f"another server answers on port {port}"):
        Server(f"{command} {port}", port, tmp_path / "other", 60)
    server.stop()


def test_one_that_ends_is_told(port: int, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        Server(f"{sys.executable} -c 'raise SystemExit(3)'", port, tmp_path / "log", 60)
