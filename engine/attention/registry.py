"""Which attention a device gets: a table of probes, each of which answers with a backend or the reason why not."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import cast

import torch

from engine.attention.base import AttentionBackend
from engine.errors import ConfigurationError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """What a backend has to run on."""

    device: torch.device
    dtype: torch.dtype
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int | None
    """None: the backend may choose."""
    windowed: bool = False
    """Whether any layer has a sliding window."""
    assumed_capability: tuple[int, int] | None = None
    """Compute capability of a GPU that is not to be asked."""

    @property
    def capability(self) -> tuple[int, int]:
        """The GPU's compute capability; (0, 0) for other devices."""
        if self.device.type != "cuda":
            return 0, 0
        return self.assumed_capability or torch.cuda.get_device_capability(self.device)


ProbeResult = tuple[AttentionBackend | None, str]
"""The backend and why it was taken, or None and why it cannot be."""

BACKENDS: dict[str, str] = {
    "reference": "engine.attention.registry:probe_reference",
    "cpu": "engine.attention.registry:probe_cpu",
    "native": "engine.attention.native:probe",
    "fa3": "engine.attention.fa3:probe",
    "triton": "engine.attention.triton_paged:probe",
    "flash-attn": "engine.attention.flash_attention:probe",
}
"""Name -> "module:function" of its probe; imported only when asked, since some need their own libraries."""

AUTO_ORDER = {"cpu": ("cpu",), "cuda": ("fa3", "triton", "flash-attn")}


def probe_reference(context: ProbeContext) -> ProbeResult:
    from engine.attention.reference import ReferenceAttention

    return ReferenceAttention(), "asked for"


def probe_cpu(context: ProbeContext) -> ProbeResult:
    from engine.attention.cpu import CpuAttention

    if context.device.type != "cpu":
        return None, "runs on CPU only"
    return CpuAttention(), "plain torch"


def choose(name: str, context: ProbeContext) -> tuple[AttentionBackend, str]:
    """The backend called `name`, or the first of the device's order that works for "auto".

    Raises ConfigurationError with every probe's reason where none does.
    """
    if name != "auto" and name not in BACKENDS:
        raise ConfigurationError(f"attention_backend {name!r} is unknown; known: auto, {', '.join(BACKENDS)}")
    reasons: list[str] = []
    for candidate in AUTO_ORDER[context.device.type] if name == "auto" else (name,):
        backend, reason = _probe(candidate, context)
        if backend is not None and context.block_size is not None and not _fits(backend, context.block_size):
            reason = f"block_size {context.block_size} is not among {backend.block_sizes}"
        elif backend is not None:
            reason = "; ".join([reason, *reasons])
            logger.info("attention backend %s (%s)", candidate, reason)
            return backend, reason
        reasons.append(f"{candidate}: {reason}")
    raise ConfigurationError(f"no attention backend works here: {'; '.join(reasons)}")


def _fits(backend: AttentionBackend, block_size: int) -> bool:
    return block_size in backend.block_sizes or backend.name in ("reference", "cpu", "native")


def _probe(name: str, context: ProbeContext) -> ProbeResult:
    module_name, _, function = BACKENDS[name].partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        return None, f"not installed ({error})"
    return cast(ProbeResult, getattr(module, function)(context))
