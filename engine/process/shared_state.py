"""What the supervisor tells fronts in other processes: a small file in the run directory, replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class SharedState(msgspec.Struct, frozen=True):
    state: str = "starting"
    """A SupervisorState."""
    reason: str = ""
    restarts: int = 0


def state_path(run_dir: str) -> Path:
    return Path(run_dir) / "state.json"


def write_state(run_dir: str, state: SharedState) -> None:
    """Raises OSError."""
    path = state_path(run_dir)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.replace(path)


def read_state(run_dir: str) -> SharedState | None:
    """None when there is no readable state yet."""
    try:
        return msgspec.json.decode(state_path(run_dir).read_bytes(), type=SharedState)
    except (OSError, msgspec.DecodeError):
        return None
