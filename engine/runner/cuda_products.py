"""Which kernel computes a matrix product, by its number of rows: measured, not guessed."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.kernels.activation import silu_mul
from engine.kernels.gemv import gemv
from engine.kernels.skinny_gemm import skinny_gemm
from engine.kernels.stream_config import StreamConfig
from engine.runner.product_table import Table, Tiling, row_blocks


class Products:
    """The products of one model. Our own kernels where the table has them; without a table, cuBLAS for everything."""

    def __init__(self, table: Table | None = None, pdl: bool = False) -> None:
        """`pdl`: kernels overlap their predecessors' ends (programmatic dependent launch), which Hopper can."""
        self.table = table or {}
        self.pdl = pdl

    @property
    def one_row_kernel(self) -> bool:
        """Whether `row` is the way to compute a single row."""
        return bool(self.table)

    def _config(self, kind: str, rows: int) -> Tiling | None:
        return next((config for most, config in self.table.get(kind, {}).items() if rows <= most), None)

    def _own(self, x: torch.Tensor, weight: torch.Tensor, config: Tiling, silu: bool = False) -> torch.Tensor:
        if isinstance(config, StreamConfig):
            from engine.kernels.stream_gemm import stream_gemm  # its language is not in every Triton

            return stream_gemm(x, weight, config, silu, pdl=self.pdl)
        return skinny_gemm(x, weight, config, silu, pdl=self.pdl)

    def _library(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight)

    def split_sums(self, x: torch.Tensor, weight: torch.Tensor, kind: str) -> torch.Tensor:
        """x @ weight.T as [rows, out], or as float32 partial sums [splits, rows, out] for the next kernel to add."""
        config = self._config(kind, x.shape[0])
        return self._library(x, weight) if config is None else self._own(x, weight, config)

    def swiglu(self, x: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(x @ gate.T) * (x @ up.T), [rows, out / 2]."""
        config = self._config("gate_up", x.shape[0])
        if config is not None:
            return self._own(x, gate_up, config, silu=True)
        return silu_mul(self._library(x, gate_up), self.pdl)

    def plain(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x @ weight.T in x's dtype."""
        return self.split_sums(x, weight, "lm_head")

    def row(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        norm: torch.Tensor | None = None,
        eps: float = 0.0,
        residual: torch.Tensor | None = None,
        silu: bool = False,
    ) -> torch.Tensor:
        """One row through one kernel with what stands around the product."""
        block_n, block_k = row_blocks(weight, norm is not None, silu)
        return gemv(x, weight, norm, eps, residual, silu, block_n, block_k, pdl=self.pdl)
