"""Kernels run on the GPU where there is one, else in Triton's interpreter on the CPU, at small sizes."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
from typing import Any

import pytest
import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None
collect_ignore_glob = [] if HAS_TRITON else ["test_*.py"]

if HAS_TRITON and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language as tl
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_for_new_numpy(tensor: Any, scope: Any) -> None:
        """numpy 2.4 no longer turns one-element arrays into ints, which the interpreter's loop bounds rely on."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    @functools.cache
    def builtins_of(package: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]

    def patch_known_builtins(package: Any, builder: Any, scope: Any) -> None:
        """As the interpreter's own, which looks through the whole package at each call of a device function."""
        for name in builtins_of(package):
            if tl.core.is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_lang_tensor = patch_tensor_for_new_numpy
    interpreter._patch_builtin = patch_known_builtins
    builtins_of(tl)  # before a launch has put others in their place


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def dtype() -> torch.dtype:
    """The interpreter computes in numpy, which has no bfloat16."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float16
