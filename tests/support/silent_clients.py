"""Clients that send a request and then fall silent without closing, each in another way."""

from __future__ import annotations

import ctypes
import json
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

from tests.support.patience import PATIENCE_S

SO_ATTACH_FILTER = 26
RETURN_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A classic BPF program that accepts no byte of any packet."""


def post_bytes(path: str, body: dict[str, Any]) -> bytes:
    """A whole HTTP request."""
    encoded = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded


def connect(url: str, *, receive_buffer: int | None = None, timeout_s: float = PATIENCE_S) -> socket.socket:
    """A bare connection to the server at `url`."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(timeout_s)
    parts = urlsplit(url)
    connection.connect((parts.hostname, parts.port))
    return connection


def stop_reading(url: str, request: bytes) -> socket.socket:
    """A client whose tiny receive buffer fills up: its kernel answers, with a window of zero."""
    connection = connect(url, receive_buffer=4096)
    connection.sendall(request)
    assert connection.recv(512).startswith(b"HTTP/1.1 200")
    return connection


def vanish(url: str, request: bytes, *, after_first_bytes: bool = True) -> socket.socket:
    """A client whose machine is gone: nothing that is sent to it is ever acknowledged, and it says no goodbye."""
    connection = connect(url)
    connection.sendall(request)
    if after_first_bytes:
        assert connection.recv(512).startswith(b"HTTP/1.1 200")
    program = ctypes.create_string_buffer(RETURN_NOTHING, len(RETURN_NOTHING))
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
    return connection
