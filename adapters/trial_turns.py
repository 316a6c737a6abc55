"""Several HTTP processes over one engine take turns at trying suspects, and hold everything else back meanwhile.

Each process that has suspects says so with a locked file in the run directory; the locks go with their processes, so
that nobody waits for a dead one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from engine.process.messages import TRIAL_PREFIX, TURN_FILE


class TrialTurns:
    """One process's part in it. Nothing here waits."""

    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir)
        self._own = self._folder / f"{TRIAL_PREFIX}{os.getpid()}"
        self._announced = -1
        self._turn = -1

    def announce(self) -> None:
        """This process has suspects: from the next engine on, nobody submits anything else until they are tried."""
        if self._announced < 0:
            with contextlib.suppress(OSError):
                self._announced = _locked(self._own)

    def take(self) -> bool:
        """Whether it is this process's turn now; it lasts until `done`."""
        if self._turn < 0:
            try:
                self._turn = _locked(self._folder / TURN_FILE)
            except BlockingIOError:
                return False
            except OSError:  # without files there are no turns, and nobody shall wait for ever
                return True
        return True

    def done(self) -> None:
        """No suspects (any more)."""
        if self._announced >= 0:
            with contextlib.suppress(OSError):
                self._own.unlink()
        for file in (self._announced, self._turn):
            if file >= 0:
                os.close(file)
        self._announced = self._turn = -1

    def others_wait(self) -> bool:
        """Whether another living process has suspects to try."""
        return any(path != self._own and _is_locked(path) for path in self._folder.glob(f"{TRIAL_PREFIX}*"))


def _locked(path: Path) -> int:
    """Raises BlockingIOError where another process holds it, other OSErrors where there can be no such file."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def _is_locked(path: Path) -> bool:
    """A file that nobody holds was left behind, and is removed."""
    try:
        os.close(_locked(path))
    except BlockingIOError:
        return True
    except OSError:
        return False
    with contextlib.suppress(OSError):
        path.unlink()
    return False
