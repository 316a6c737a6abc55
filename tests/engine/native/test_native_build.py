"""Building, caching and giving up."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.native import build
from engine.native.build import BuildError, library_path
from engine.native.library import load_native

FAKE_COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo fake 1.0; exit 0; fi
echo run >> "$(dirname "$0")/runs"
for last; do :; done
echo library > "$last"
"""


def fake_compiler(folder: Path, script: str = FAKE_COMPILER) -> Path:
    path = folder / "compiler"
    path.write_text(script)
    path.chmod(0o755)
    return path


def join_builders() -> None:
    """Those in the background may still wait for their turn."""
    for thread in threading.enumerate():
        if thread.name == "native-build":
            thread.join()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = fake_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(path))
    yield path
    join_builders()


def test_compiles_once_and_again_for_other_flags(compiler: Path) -> None:
    first = library_path()
    assert library_path() == first
    assert (compiler.parent / "runs").read_text().count("run") == 1
    assert library_path(("-DOTHER",)) != first
    assert first.parent.stat().st_mode & 0o077 == 0
    assert [path.suffix for path in first.parent.iterdir()] == [".so", ".so"]


def test_racing_builds_leave_one_whole_library(compiler: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: library_path(), range(4)))
    (path,) = paths
    assert path.read_text() == "library\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_compiler_says_why_and_leaves_nothing(compiler: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake_compiler(compiler.parent, '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no such option >&2\nexit 1\n')
    with pytest.raises(BuildError, match="no such option"):
        library_path()
    assert list(build.cache_folder().iterdir()) == []
    with caplog.at_level(logging.WARNING):
        assert load_native(1) is None
    assert "no such option" in caplog.text


def test_a_broken_library_is_not_used(compiler: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_native(1) is None
    assert "torch computes" in caplog.text


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match="install g"):
        library_path()


@pytest.mark.parametrize("home", ["a file", "none"])
def test_an_unusable_cache_folder_is_replaced_by_one_for_the_process(
    home: str, compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", nobody)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    build.build_in_background()
    path = library_path()
    assert library_path() == path
    assert path.parent.stat().st_uid == os.getuid()
    assert (compiler.parent / "runs").read_text().count("run") == 1
    join_builders()
    path.unlink()


def test_the_process_takes_its_own_folder_away(tmp_path: Path) -> None:
    code = "from engine.native.build import cache_folder as f; import sys; sys.stdout.write(str(f()))"
    environment = {**os.environ, "XDG_CACHE_HOME": "/dev/null", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_building_in_the_background_is_waited_for(compiler: Path) -> None:
    build.build_in_background()
    assert library_path().exists()
    assert (compiler.parent / "runs").read_text().count("run") == 1


@pytest.mark.parametrize("value", ["0", "false", "off"])
def test_switched_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAI_SERVER_NATIVE", value)
    assert load_native(1) is None


def test_the_package_and_its_build_need_no_torch() -> None:
    code = "import sys, engine.native, engine.native.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
