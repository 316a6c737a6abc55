"""The listening socket, bound before anything else starts, with what accepted connections inherit from it."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import ssl

from engine.errors import ConfigurationError
from oai_server.settings import Settings

RESERVED_DESCRIPTORS = 64
"""File descriptors kept for everything but clients' connections."""
KEEP_ALIVE_PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""A client that vanished without a word is noticed after a minute even when nothing is sent."""


def listening_sockets(settings: Settings) -> list[socket.socket]:
    """One bound and listening socket a worker. Raises ConfigurationError that says what to do about it.

    Several workers get a socket each (SO_REUSEPORT), between which the kernel spreads connections; an exclusive
    socket is bound first, since SO_REUSEPORT alone would silently share the port with another server.
    """
    first = _bind(settings, settings.port, shared=False)
    if settings.api_workers == 1:
        return [first]
    port = first.getsockname()[1]
    first.close()
    return [_bind(settings, port, shared=True) for _ in range(settings.api_workers)]


def check_certificate(settings: Settings) -> None:
    """Raises ConfigurationError when the files of --ssl-certfile and --ssl-keyfile cannot be used."""
    if settings.ssl_certfile:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
        except OSError as error:
            files = f"--ssl-certfile {settings.ssl_certfile}, --ssl-keyfile {settings.ssl_keyfile}"
            raise ConfigurationError(f"{files}: {error.strerror or error}") from error


def _bind(settings: Settings, port: int, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigurationError(f"--host {settings.host}: {error.strerror or error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bound_slow_readers(listener, settings)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_reason(settings, port, error)) from error
    listener.setblocking(False)
    return listener


def _bound_slow_readers(listener: socket.socket, settings: Settings) -> None:
    """What a client that does not read can pin, and for how long."""
    if settings.send_buffer_kib:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_kib * 1024)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE_PROBES:
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if settings.write_timeout and hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(settings.write_timeout * 1000))


def _reason(settings: Settings, port: int, error: OSError) -> str:
    where = f"cannot listen on {settings.host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use. Choose another with --port, or 0 for a free one"
    if error.errno == errno.EACCES:
        return f"{where}: no permission. Ports below 1024 need a privileged user; choose another with --port"
    return f"{where}: {error.strerror or error}"


def connection_cap(settings: Settings) -> int:
    """How many connections a process may hold: the setting, or what the file-descriptor limit leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, min(settings.max_connections, soft - RESERVED_DESCRIPTORS))
