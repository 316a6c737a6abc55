"""When a refused client may come back: after the estimate, and not all of them at one moment."""

from __future__ import annotations

import random
from collections.abc import Callable

MIN_WAIT_S = 1.0
SPREAD = 0.5
"""The longest wait is so much longer than the estimate, and at least a second longer."""
MIN_SPREAD_S = 1.0


def retry_after(estimate_s: float, draw: Callable[[], float] = random.random) -> dict[str, str]:
    """Headers of a 429 or 503. `draw` gives evenly spread numbers in [0, 1).

    The official clients read milliseconds, others whole seconds; these are rounded to either side, so that they
    differ between clients, too. Neither is ever below a second.
    """
    estimate_s = max(estimate_s, MIN_WAIT_S)
    wait_s = estimate_s + draw() * max(SPREAD * estimate_s, MIN_SPREAD_S)
    return {"retry-after": str(round(wait_s)), "retry-after-ms": str(round(1000 * wait_s))}
