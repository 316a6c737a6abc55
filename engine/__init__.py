"""Paged attention, continuous batching, shortest job first: token ids in, token ids out.

The names below load on first use, so that ``import engine.process.client`` stays free of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.config import EngineConfig
    from engine.inference import InferenceEngine
    from engine.sampling_params import SamplingParams

__all__ = ["EngineConfig", "InferenceEngine", "SamplingParams"]

_HOMES = {
    "EngineConfig": "engine.config",
    "InferenceEngine": "engine.inference",
    "SamplingParams": "engine.sampling_params",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
