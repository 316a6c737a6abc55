"""Logging of the server: lines on standard error that never stop the server and never grow a second line."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(level: str) -> None:
    """One handler on the root logger. A full disk or a closed pipe loses lines, nothing else."""
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "uvicorn.error", "sse_starlette.sse", "asyncio", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
