"""Host memory straight from the kernel: zeroed, taken page by page as it is first written, in large pages on request.

Large pages matter where all weights are read every step: with 4 KiB pages the address translation costs about a tenth
of the memory's bandwidth.
"""

from __future__ import annotations

import contextlib
import math
import mmap

import torch

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""


class Arena:
    """One mapping that tensors are cut from; it lives as long as any of them."""

    def __init__(self, nbytes: int, large_pages: bool = False) -> None:
        """Raises MemoryError where the system refuses so much."""
        try:
            self._memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no memory for {nbytes / 1e9:.1f} GB: {error}") from error
        if large_pages and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._used = 0

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Zeros. Raises ValueError when the arena is used up."""
        count = math.prod(shape)
        tensor = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=self._used).view(shape)
        self._used += aligned(tensor.nbytes)
        return tensor


def aligned(nbytes: int) -> int:
    """What a tensor of `nbytes` takes of an arena."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
