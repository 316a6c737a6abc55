"""Compile the kernels for this very CPU and keep the result: `python -m engine.native.build` does it ahead of time.

The file's name holds a digest of the sources, the flags, the compiler's version and the CPU's features, so a stale or
foreign library is never loaded. It is written under a temporary name and renamed: processes may race.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FLAGS = (
    *("-O3", "-march=native", "-std=gnu++17", "-ffp-contract=off", "-fno-math-errno"),
    *("-pthread", "-shared", "-fPIC", "-fvisibility=hidden", "-Wno-psabi"),
)
COMPILERS = ("g++", "clang++", "c++")
TIMEOUT_S = 180.0
_building = threading.Lock()


class BuildError(Exception):
    """The kernels cannot be compiled here; the message says why and what would help."""


def library_path(extra_flags: tuple[str, ...] = ()) -> Path:
    """The compiled library, built now unless an earlier run left it. Raises BuildError."""
    compiler = find_compiler()
    flags = FLAGS + extra_flags
    with _building:
        path = cache_folder() / f"kernels-{_digest(compiler, flags)}.so"
        if not path.exists():
            _compile(compiler, flags, path)
        return path


def build_in_background() -> None:
    """Compile, if that is needed, while the caller loads weights; a failure shows when the library is asked for."""

    def build() -> None:
        with contextlib.suppress(BuildError):
            library_path()

    if enabled():
        threading.Thread(target=build, name="native-build", daemon=True).start()


def enabled() -> bool:
    """Whether OAI_SERVER_NATIVE leaves the kernels on."""
    return os.environ.get("OAI_SERVER_NATIVE", "1").lower() not in ("0", "false", "off", "no")


def find_compiler() -> str:
    """Path of $CXX or the first compiler known. Raises BuildError."""
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        if name and (found := shutil.which(name)):
            return found
    raise BuildError("no C++ compiler was found; install g++ or clang++ (or set CXX)")


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/qwen-oai-server, this user's alone, or this process's own folder where that cannot be used."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "qwen-oai-server"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        pass
    return _own_folder()


@functools.cache
def _own_folder() -> Path:
    """One for all calls, so that nothing is compiled twice; removed at the end."""
    logger.info("no cache folder is writable: the native kernels are compiled at every start (set XDG_CACHE_HOME)")
    folder = Path(tempfile.mkdtemp(prefix="qwen-oai-server-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _digest(compiler: str, flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((flags, _compiler_version(compiler), _cpu_identity())).encode())
    for source in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:24]


def _compiler_version(compiler: str) -> str:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{compiler} does not run: {error}") from error
    return done.stdout


def _cpu_identity() -> str:
    """What -march=native looks at: machine type and the feature line of /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    keys = ("vendor_id", "cpu family", "model\t", "flags", "Features", "CPU part")
    first = {line.partition(":")[0]: line for line in reversed(lines) if line.startswith(keys)}
    return "\n".join([platform.machine(), platform.processor(), *sorted(first.values())])


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    started = time.monotonic()
    handle, temporary = tempfile.mkstemp(prefix=path.stem, suffix=".so.tmp", dir=path.parent)
    os.close(handle)
    command = [compiler, *flags, str(SOURCES / "kernels.cpp"), "-o", temporary]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        os.replace(temporary, path)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{compiler} failed: {error.stderr.strip()[:500]}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{compiler} did not finish: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    logger.info("compiled the native kernels in %.1f s: %s", time.monotonic() - started, path)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        logger.info("native kernels: %s", library_path())
    except BuildError as error:
        logger.error("native kernels are not available: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
