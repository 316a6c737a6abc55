"""Waiting in tests. The time that something takes decides no test: what happens is asserted, and in which order.

A wait ends as soon as what is awaited is there. `PATIENCE_S` only tells a hang from a machine that is busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0


def wait_for(condition: Callable[[], object], what: str = "", patience_s: float = PATIENCE_S) -> None:
    """Until the condition is true; AssertionError that names `what` if it never is."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"never: {what or condition}"
        time.sleep(0.01)
