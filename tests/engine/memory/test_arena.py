"""Tensors cut from one mapping."""

from __future__ import annotations

import gc

import pytest
import torch

from engine.memory.arena import ALIGNMENT, Arena, aligned


@pytest.mark.parametrize("large_pages", [False, True])
def test_tensors_are_zero_aligned_apart_and_outlive_the_arena(large_pages: bool) -> None:
    arena = Arena(aligned(7 * 2) + aligned(6 * 4), large_pages)
    first = arena.tensor((7,), torch.bfloat16)
    second = arena.tensor((2, 3), torch.float32)
    del arena
    gc.collect()
    assert not first.any()
    assert not second.any()
    first.fill_(1)
    assert not second.any()
    assert second.data_ptr() % ALIGNMENT == first.data_ptr() % ALIGNMENT == 0


def test_too_much() -> None:
    with pytest.raises(MemoryError):
        Arena(1 << 60)
    with pytest.raises(ValueError, match="buffer"):
        Arena(64).tensor((100,), torch.float32)
