"""How a streamed product is tiled: apart from its kernel, which needs a language that not every Triton has."""

from __future__ import annotations

from typing import NamedTuple

import triton

from engine.kernels.common import next_power_of_two

TESTED_TRITON = ("3.6.",)
"""Gluon is experimental: its functions change from one version of Triton to the next."""


def gluon_is_known() -> bool:
    """Whether this Triton's Gluon is one that the streaming kernel is written for."""
    return str(triton.__version__).startswith(TESTED_TRITON)


class StreamConfig(NamedTuple):
    """How one product is tiled; `block_n` is a multiple of 16 * num_warps, `block_k` 32, 64 or 128."""

    block_n: int
    block_k: int = 64
    splits: int = 1
    num_warps: int = 4
    stages: int = 4
    few_rows: bool = False
    """Stages are filled again at once, and programs begin at different blocks."""
    wide: bool = False
    """With SwiGLU and `block_k` 64: `block_n` + `block_n` / 8 outputs a program."""

    @property
    def extra(self) -> int:
        """Outputs of the interleaved tile."""
        return self.block_n // 8 if self.wide else 0

    def padded(self, rows: int) -> int:
        """Rows of x in shared memory: the matrix instruction's columns, which two warpgroups share in a wide tile."""
        return max(16 if self.wide and self.num_warps == 8 else 8, next_power_of_two(rows))

    def shared_bytes(self, rows: int, silu: bool = False) -> int:
        """Shared memory of a program for 16-bit weights, without the mbarriers."""
        stage_rows = self.block_n * (2 if silu else 1) + 2 * self.extra + self.padded(rows)
        behind_last = 64 - 2 * self.extra if self.wide else 0
        return (self.stages * stage_rows + behind_last) * self.block_k * 2
