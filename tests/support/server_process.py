"""A real server in processes of its own, with the bundled demo model, for tests from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "oai_server" / "demo_model"


@contextlib.contextmanager
def demo_server(*flags: str, ready_s: float = PATIENCE_S) -> Iterator[str]:
    """Base URL of `oai-server serve` on a free port. Skips where the checkpoint has no weights yet."""
    with demo_process(*flags, ready_s=ready_s) as (_, url):
        yield url


@contextlib.contextmanager
def demo_process(*flags: str, ready_s: float = PATIENCE_S) -> Iterator[tuple[int, str]]:
    """The same with the id of the process before the URL. Afterwards nothing unexpected may stand in its log."""
    if not list(DEMO.glob("*.safetensors")):
        pytest.skip("the demo model has no weights")
    with tempfile.NamedTemporaryFile("w+") as log:
        command = [sys.executable, "-m", "oai_server", "serve", "--port", "0", *flags]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)
        try:
            yield process.pid, _wait_until_ready(process, Path(log.name), time.monotonic() + ready_s)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said = Path(log.name).read_text(errors="replace")
        assert "Traceback" not in said, said[said.index("Traceback") :][:3000]


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, deadline_s: float) -> str:
    url = ""
    while time.monotonic() < deadline_s and process.poll() is None:
        if found := re.search(r"listening on (http://\S+)", log.read_text()):
            url = found[1]
        with contextlib.suppress(httpx.HTTPError):
            if url and httpx.get(f"{url}/health", timeout=PATIENCE_S, verify=False).status_code == 200:
                return url
        time.sleep(0.1)
    raise AssertionError(f"the server did not become ready:\n{log.read_text()[-3000:]}")
