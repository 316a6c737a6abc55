"""Both ends of the engine's socket in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.process.door import Door
from engine.process.messages import (
    socket_path,
)
from tests.support.loop_by_hand import Engine, Front


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(str(tmp_path / "run"))
    yield door
    door.close()
    assert not Path(socket_path(str(tmp_path / "run"))).exists()


@pytest.fixture
def front(door: Door, tmp_path: Path) -> Iterator[Front]:
    front = Front(tmp_path)
    yield front
    front.context.destroy(linger=0)


@pytest.fixture
def engine(door: Door, tmp_path: Path) -> Engine:
    return Engine(door, tmp_path)
