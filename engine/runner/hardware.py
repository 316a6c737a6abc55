"""What this machine offers, for `doctor` and the start-up log."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
from pathlib import Path

import msgspec
import torch

from engine.memory.host import CGROUP, available_bytes

CPU_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd", "bf16")
"""Instruction sets that matter here, the best first."""

PACKAGES = ("torch", "triton", "flash-attn", "fa3-fwd", "transformers")


class GpuReport(msgspec.Struct, frozen=True):
    name: str
    memory_gib: float
    free_gib: float
    compute_capability: tuple[int, int]


class HardwareReport(msgspec.Struct, frozen=True):
    cpu: str
    cores: int
    """Physical cores that this process may use, as far as the system and its container tell."""
    cpu_flags: tuple[str, ...]
    memory_gib: float
    free_memory_gib: float
    """What this process may still take, inside its container if it is in one."""
    compiler: str | None
    """C++ compiler for the native CPU kernels."""
    gpus: tuple[GpuReport, ...]
    packages: dict[str, str]
    """Versions of those of PACKAGES that are installed."""
    python: str


def inspect_hardware() -> HardwareReport:
    """Look at the machine; starts no CUDA context when there is no GPU."""
    total, free = _memory_gib(), available_bytes() / 2**30
    compiler = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    return HardwareReport(
        cpu=_cpu_name(),
        cores=physical_cores(),
        cpu_flags=_cpu_flags(),
        memory_gib=total,
        free_memory_gib=min(free, total),
        compiler=compiler,
        gpus=_gpus(),
        packages=_packages(),
        python=platform.python_version(),
    )


def physical_cores(cgroup: Path = CGROUP) -> int:
    """Cores this process may run on, hyper-threads counted once, and no more than the container's share of time.

    Threads beyond that share would be stopped for a part of each period while the others wait for them.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(topology.read_text().strip() if topology.exists() else str(cpu))
    quota = cpu_quota(cgroup)
    return max(1, len(siblings) if quota is None else min(len(siblings), math.floor(quota)))


def cpu_quota(cgroup: Path = CGROUP) -> float | None:
    """Processors' worth of time that the container may use; None where there is no limit."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _proc_lines(name: str) -> list[str]:
    path = Path("/proc") / name
    return path.read_text().splitlines() if path.exists() else []


def _cpu_name() -> str:
    for line in _proc_lines("cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_flags() -> tuple[str, ...]:
    for line in _proc_lines("cpuinfo"):
        if line.startswith(("flags", "Features")):
            present = set(line.partition(":")[2].split())
            return tuple(flag for flag in CPU_FLAGS if flag in present)
    return ()


def _memory_gib() -> float:
    """All that the host has."""
    for line in _proc_lines("meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) / 2**20
    return 0.0


def _gpus() -> tuple[GpuReport, ...]:
    if not torch.cuda.is_available():
        return ()
    reports = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = (properties.major, properties.minor)
        reports.append(GpuReport(properties.name, total / 2**30, free / 2**30, capability))
    return tuple(reports)


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
