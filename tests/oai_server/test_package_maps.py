"""The docstrings of the packages are maps: every module is on them, and nothing that is gone."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import oai_server
import oai_server.wire


@pytest.mark.parametrize("package", [oai_server, oai_server.wire], ids=lambda package: package.__name__)
def test_every_module_is_on_the_map(package: ModuleType) -> None:
    names = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__", "__main__"}
    told = set(re.findall(r"`(\w+)(?:\.\w+)?`", package.__doc__ or ""))
    assert names - told == set()
    assert told - names == set()
