"""One server with the bundled model for all tests of hostile requests; after each, nothing may be left in it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.fault_demo import CONTEXT, Demo
from tests.support.server_process import demo_process


@pytest.fixture(scope="session")
def bundled_model() -> Iterator[Demo]:
    with demo_process("--max-model-len", str(CONTEXT), "--no-access-log") as (pid, url), Demo(url, pid) as demo:
        yield demo


@pytest.fixture
def demo(bundled_model: Demo) -> Iterator[Demo]:
    yield bundled_model
    bundled_model.check_alive()


@pytest.fixture
def bait() -> Iterator[socket.socket]:
    """A listening socket that nobody may ever connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        yield listener
        with pytest.raises(TimeoutError):
            listener.accept()
