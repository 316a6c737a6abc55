"""Where an engine's socket and its small files lie."""

from __future__ import annotations

import os
import tempfile

from engine.process.messages import socket_path

MAX_SOCKET_PATH = 103
"""Bytes that every system allows (unix(7): sun_path has 108, on macOS 104, with a zero at the end)."""


def make_run_dir() -> str:
    """A new folder of this user's alone: below TMPDIR, or below /tmp where that is too long for a socket in it.

    Raises OSError.
    """
    run_dir = tempfile.mkdtemp(prefix="oai-server-")
    if len(os.fsencode(socket_path(run_dir))) <= MAX_SOCKET_PATH:
        return run_dir
    os.rmdir(run_dir)
    return tempfile.mkdtemp(prefix="oai-server-", dir="/tmp")
