"""A live server on a fake backend, one a test module, and what tests ask of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_backend import Script
from tests.support.live_server import LiveServer, live_server


@pytest.fixture(scope="module")
def module_server() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


@pytest.fixture
def server(module_server: LiveServer) -> Iterator[LiveServer]:
    """The module's server with a fresh script; afterwards nothing may be running in it."""
    module_server.backend.script = Script()
    yield module_server
    module_server.backend.script = Script()
    module_server.check_alive()
