"""The guide to the code names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_file_that_the_guide_names_exists() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    names = set(re.findall(r"`([\w/]+(?:/|\.py|\.h))`", text))
    assert len(names) > 40
    assert (
        sorted(name for name in names if not any((folder / name).exists() for folder in (ROOT, ROOT / "engine")))
        == []
    )
