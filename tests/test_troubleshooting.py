"""Every message and flag that the page of troubles quotes is in the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from oai_server.settings import Settings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| ")][2:]
QUOTED = [text for seen, _ in ROWS for text in re.findall(r"`([^`]+)`", seen)]
ROUTES = {"/health"}


@pytest.fixture(scope="module")
def source() -> str:
    """All code as one line, f-strings that go on in the next line joined."""
    packages = ("oai_server", "adapters", "engine")
    files = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("text", QUOTED)
def test_quoted_messages_are_the_codes_own(text: str, source: str) -> None:
    if text not in ROUTES:
        pattern = r"[^\n]*?".join(re.escape(part) for part in text.split("…"))
        assert re.search(pattern, source), text


def test_flags_exist() -> None:
    known = {"--" + field.name.replace("_", "-") for field in msgspec.structs.fields(Settings)}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert len(named) > 10
    assert named <= known
