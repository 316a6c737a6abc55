"""`serve` over a FakeBackend as a process: `python -m tests.support.fake_server SETTINGS_AS_JSON`.

A module of its own, because what a child imports delays each of the many tests that start one.
"""

from __future__ import annotations

import json
import os
import sys

from oai_server.lifecycle import Worker, serve
from oai_server.settings import Settings
from tests.support.fake_backend import FakeBackend, Script


def make_fake(settings: Settings, worker: Worker) -> FakeBackend:
    """For `serve`: the script comes from the environment of the child."""
    return FakeBackend(Script(**json.loads(os.environ.get("FAKE_SCRIPT", "{}"))))


class FakeHost:
    """An engine's owner without an engine."""

    run_dir = "/nowhere"

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return


def make_fake_host(settings: Settings) -> FakeHost:
    return FakeHost()


def main() -> int:
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(sys.argv[1]).items()}
    return serve(Settings(**settings), make_fake, make_host=make_fake_host)


if __name__ == "__main__":
    sys.exit(main())
