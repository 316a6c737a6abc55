"""How much memory this process may still take, inside a container or not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

CGROUP = Path("/sys/fs/cgroup")


class _MemoryFiles(NamedTuple):
    """One version's files below the cgroup folder, and its names for what lies in the page cache."""

    limit: str
    used: str
    details: str
    cached: tuple[str, str]


MEMORY_FILES = (
    _MemoryFiles("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    _MemoryFiles(
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_active_file", "total_inactive_file"),
    ),
)


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP) -> int:
    """The smaller of what the host can give without swapping and what the container's limit leaves.

    A container is charged for the pages of files that it has read, such as the checkpoint, but these go as soon as
    memory is wanted: they count as available, as they do in MemAvailable. 4 GiB where neither can be read.
    """
    found = []
    host = _values(meminfo, ":").get("MemAvailable")
    if host is not None:
        found.append(host * 1024)
    for files in MEMORY_FILES:
        limit, used = _number(cgroup / files.limit), _number(cgroup / files.used)
        if limit is not None and used is not None:
            details = _values(cgroup / files.details)
            cached = sum(details.get(name, 0) for name in files.cached)
            found.append(max(0, limit - max(0, used - cached)))
    return min(found, default=4 << 30)


def _values(path: Path, separator: str | None = None) -> dict[str, int]:
    """A file of lines with a name and a number, perhaps with its unit; {} where it cannot be read."""
    try:
        lines = [line.split(separator, 1) for line in path.read_text().splitlines()]
        return {parts[0]: int(parts[1].split()[0]) for parts in lines if len(parts) == 2}
    except (OSError, ValueError, IndexError):
        return {}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
