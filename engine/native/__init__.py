"""Own C++ kernels for CPUs, compiled at first use; where they cannot run, torch computes instead.

Importing this package loads neither torch nor the library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.native.decoder import NativeDecoder, build_decoder
    from engine.native.library import Native, load_native

__all__ = ["Native", "NativeDecoder", "build_decoder", "load_native"]

_HOMES = {
    "Native": "engine.native.library",
    "load_native": "engine.native.library",
    "NativeDecoder": "engine.native.decoder",
    "build_decoder": "engine.native.decoder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
