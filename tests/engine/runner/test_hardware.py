"""What the machine and its container leave to this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.runner.hardware import cpu_quota, inspect_hardware, physical_cores


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
    ],
)
def test_threads_stay_within_the_containers_share_of_time(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota
    assert physical_cores(tmp_path) == (1 if quota is not None else physical_cores(tmp_path / "none"))


def test_this_machine() -> None:
    report = inspect_hardware()
    assert 1 <= report.cores <= (os.cpu_count() or 1)
    assert 0 < report.free_memory_gib <= report.memory_gib
    assert report.packages["torch"]
