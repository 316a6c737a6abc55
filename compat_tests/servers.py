"""Start a server in a process of its own, wait until it is healthy, stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS = ROOT / ".peers"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(command: list[str], port: int, ready_s: float, log: Path) -> Iterator[str]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(process, url, ready_s, log)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, ready_s: float, log: Path) -> None:
    deadline = time.monotonic() + ready_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"server ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(f"no healthy server after {ready_s:.0f} s:\n{log.read_text()[-4000:]}")


def our_server(model: Path, name: str, dtype: str, *flags: str, log: Path) -> AbstractContextManager[str]:
    """This server; gives its URL, without /v1."""
    port = free_port()
    command = [sys.executable, "-m", "oai_server", "serve", "--model", str(model), "--served-model-name", name]
    command += ["--dtype", dtype, "--port", str(port), *flags]
    return _running(command, port, 120, log)


def vllm_server(model: Path, name: str, dtype: str, *flags: str, log: Path) -> AbstractContextManager[str]:
    """vLLM's CPU build in its own environment (installed at the first call); gives its URL."""
    environment = PEERS / "vllm"
    PEERS.mkdir(exist_ok=True)
    subprocess.run([HERE / "peer" / "install_vllm.sh", environment], check=True)
    port = free_port()
    command = [str(HERE / "peer" / "serve_vllm.sh"), str(environment), str(model), str(port)]
    command += ["--served-model-name", name, "--dtype", dtype, *flags]
    return _running(command, port, 400, log)
