"""The scripts of compat_tests/curl, run as a person would paste them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent / "curl").glob("*.sh"))
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_script(script: Path, base_url: str, api_key: str, model: str) -> None:
    env = {"BASE_URL": base_url, "API_KEY": api_key, "MODEL": model, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    if script.stem.endswith("stream"):
        lines = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "data: [DONE]"
        assert all(json.loads(line.removeprefix("data: ")) for line in lines[:-1])
        assert len(lines) > 1
    elif done.stdout.strip().startswith("{"):
        assert "error" not in json.loads(done.stdout)
