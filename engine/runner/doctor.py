"""Judge what this machine offers: which device and attention a model would get, and what would make it faster."""

from __future__ import annotations

import msgspec
import torch

from engine.attention.registry import ProbeContext, choose
from engine.errors import ConfigurationError
from engine.native import load_native
from engine.runner.hardware import HardwareReport, inspect_hardware


class Diagnosis(msgspec.Struct, frozen=True):
    facts: tuple[tuple[str, str], ...]
    """Name and value, in the order to show them."""
    advice: tuple[str, ...]
    """What would be faster."""
    problems: tuple[str, ...]
    """What keeps a model from being served."""


def diagnose() -> Diagnosis:
    """Inspect the machine and try the attention backends on the shape of a small Qwen model."""
    hardware = inspect_hardware()
    facts = [
        ("Python", hardware.python),
        (
            "CPU",
            f"{hardware.cpu}, {hardware.cores} cores, {', '.join(hardware.cpu_flags) or 'no vector extensions'}",
        ),
        ("memory", f"{hardware.memory_gib:.1f} GiB, {hardware.free_memory_gib:.1f} GiB free"),
        *((f"GPU {i}", f"{gpu.name}, {gpu.memory_gib:.0f} GiB") for i, gpu in enumerate(hardware.gpus)),
        ("packages", ", ".join(f"{name} {version}" for name, version in hardware.packages.items())),
    ]
    problems: list[str] = []
    device = torch.device("cuda" if hardware.gpus else "cpu")
    facts.append(("device", device.type))
    native = load_native(hardware.cores) if device.type == "cpu" else None
    if native is not None:
        facts.append(("attention", f"native: own kernels, {native.instructions}"))
        return Diagnosis(tuple(facts), tuple(_advice(hardware)), ())
    try:
        backend, reason = choose("auto", _sample_context(device))
        facts.append(("attention", f"{backend.name}: {reason}"))
    except ConfigurationError as error:
        problems.append(str(error))
    if device.type == "cpu":
        facts.append(("CPU kernels", _why_no_kernels(hardware)))
    return Diagnosis(tuple(facts), tuple(_advice(hardware)), tuple(problems))


def _sample_context(device: torch.device) -> ProbeContext:
    """Qwen3-0.6B's attention."""
    return ProbeContext(device, torch.bfloat16, num_heads=16, num_kv_heads=8, head_dim=128, block_size=None)


def _why_no_kernels(hardware: HardwareReport) -> str:
    if hardware.compiler is None:
        return "none: no C++ compiler was found to build the native kernels"
    return "none: the native kernels could not be built (see the log above)"


def _advice(hardware: HardwareReport) -> list[str]:
    advice = []
    if hardware.gpus:
        hopper = any(gpu.compute_capability[0] == 9 for gpu in hardware.gpus)
        if hopper and "fa3-fwd" not in hardware.packages:
            advice.append("pip install fa3-fwd: FlashAttention-3 is the fastest attention on this GPU")
        if "triton" not in hardware.packages:
            advice.append("pip install triton: the paged kernels need it")
        return advice
    if hardware.compiler is None:
        advice.append("install g++ or clang++: the native CPU kernels are several times faster than plain torch")
    if "avx512_bf16" not in hardware.cpu_flags and "amx_bf16" not in hardware.cpu_flags:
        advice.append("a CPU with AVX512-BF16 or AMX computes long prompts several times faster")
    advice.append("an NVIDIA GPU: the same command uses it")
    return advice
