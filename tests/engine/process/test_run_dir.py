"""The folder that an engine's socket lies in."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from engine.process.messages import socket_path
from engine.process.run_dir import MAX_SOCKET_PATH, make_run_dir


@pytest.mark.parametrize("length", [1, 40, 70, 120])
def test_a_socket_fits_however_long_the_temporary_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    below = tmp_path / ("x" * length)
    below.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(below))
    run_dir = make_run_dir()
    try:
        assert os.stat(run_dir).st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(socket_path(run_dir))
        fits = len(socket_path(f"{below}/oai-server-12345678")) <= MAX_SOCKET_PATH
        assert (Path(run_dir).parent == below) == fits
        os.unlink(socket_path(run_dir))
    finally:
        os.rmdir(run_dir)
    assert list(below.iterdir()) == []
