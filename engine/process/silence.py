"""Whether a silent engine hangs: how long nothing has been heard of it, and what it has computed meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Silence:
    """How long nothing has been heard of a process, counted in ticks, and whether it has worked meanwhile."""

    def __init__(self, pid: int, heard: int) -> None:
        self._pid = pid
        self._heard = heard
        self._cpu_s = 0.0
        self.seconds = 0.0
        self.broken_before = False
        """It has said something already."""

    def tick(self, heard: int, tick_s: float) -> None:
        if heard == self._heard:
            self.seconds += tick_s
            return
        self._heard, self.seconds, self.broken_before = heard, 0.0, True
        self._cpu_s = cpu_seconds(self._pid)

    @property
    def idle(self) -> bool:
        """It has used less than a fiftieth of a processor."""
        return cpu_seconds(self._pid) - self._cpu_s < self.seconds / 50


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; grows with the clock where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
