"""What signals mean to a server process, with one worker or as the parent of several."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import signal
import sys
from collections.abc import Callable, Iterator

logger = logging.getLogger("oai_server")

STOP = (signal.SIGTERM, signal.SIGINT)
NOW = signal.SIGUSR2
"""What a parent tells its workers after a second signal."""


@contextlib.contextmanager
def handled_signals(on_stop: Callable[[], None], on_now: Callable[[], None] | None = None) -> Iterator[None]:
    """SIGTERM and SIGINT call `on_stop`, NOW calls `on_now`; no other signal ends the process by accident.

    SIGUSR1 prints where every thread is. SIGHUP stops a server whose terminal was closed, and is ignored by one
    without a terminal. For the main thread, inside a running event loop.
    """
    loop = asyncio.get_running_loop()
    stops = (*STOP, signal.SIGHUP) if sys.stdin is not None and sys.stdin.isatty() else STOP
    for number in stops:
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(NOW, on_now or (lambda: None))
    if signal.SIGHUP not in stops:
        loop.add_signal_handler(signal.SIGHUP, logger.info, "SIGHUP ignored: settings are read at the start only")
    with contextlib.suppress(ValueError, OSError, AttributeError):  # standard error may be no file
        faulthandler.register(signal.SIGUSR1)
    try:
        yield
    finally:
        for number in {*stops, signal.SIGHUP, NOW}:
            loop.remove_signal_handler(number)
