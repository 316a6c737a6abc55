"""Which kernel computes a matrix product, by its number of rows: measured, not guessed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.kernels.activation import silu_mul
from engine.kernels.gemv import gemv
from engine.kernels.skinny_gemm import SkinnyConfig, skinny_gemm
from engine.runner.product_table import Table


@dataclass(frozen=True, slots=True)
class Plan:
    """How a step of few rows is computed. Which is fastest depends on model and GPU: see `benchmarks/gpu_tune.py`."""

    own: bool = False
    """Our own kernels where the table has them, else cuBLAS."""
    pdl: bool = False
    """Kernels overlap their predecessors' ends."""
    prefetch: bool = False
    """Products ask for their first weights while they wait for their predecessors."""


PLAIN = Plan()
PLANS = (Plan(own=True), Plan(own=True, pdl=True), Plan(own=True, pdl=True, prefetch=True), PLAIN)


class Products:
    """The products of one model under the current plan. Without a table: cuBLAS for everything."""

    def __init__(self, table: Table | None = None, plan: Plan = PLAIN) -> None:
        self._table = table or {}
        self.plan = plan

    @property
    def pdl(self) -> bool:
        return self.plan.pdl

    @property
    def tunable(self) -> bool:
        """Whether there are kernels of our own to choose from."""
        return bool(self._table)

    @property
    def one_row_kernel(self) -> bool:
        return self.plan.own and bool(self._table)

    def _config(self, kind: str, rows: int) -> SkinnyConfig | None:
        if not self.plan.own:
            return None
        return next((config for most, config in self._table.get(kind, {}).items() if rows <= most), None)

    def split_sums(self, x: torch.Tensor, weight: torch.Tensor, kind: str) -> torch.Tensor:
        """x @ weight.T as [rows, out], or as float32 partial sums [splits, rows, out] for the next kernel to add."""
        config = self._config(kind, x.shape[0])
        return (
            F.linear(x, weight)
            if config is None
            else skinny_gemm(x, weight, config, pdl=self.pdl, prefetch=self.plan.prefetch)
        )

    def swiglu(self, x: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(x @ gate.T) * (x @ up.T), [rows, out / 2]."""
        config = self._config("gate_up", x.shape[0])
        if config is not None:
            return skinny_gemm(x, gate_up, config, True, self.pdl, self.plan.prefetch)
        return silu_mul(F.linear(x, gate_up), self.pdl)

    def plain(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x @ weight.T in x's dtype."""
        config = self._config("lm_head", x.shape[0])
        return (
            F.linear(x, weight)
            if config is None
            else skinny_gemm(x, weight, config, pdl=self.pdl, prefetch=self.plan.prefetch)
        )

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
        # A norm is computed anew by every program, so fewer and larger ones.
        block_n, block_k = (8, 512) if norm is not None else (4, 1024) if weight.shape[1] > 8192 else (4, 512)
        block_n = 4 if silu else block_n
        pdl, prefetch = self.plan.pdl, self.plan.prefetch
        return gemv(x, weight, norm, eps, residual, silu, block_n, block_k, pdl=pdl, prefetch=prefetch)
