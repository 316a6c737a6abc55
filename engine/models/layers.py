"""The arithmetic of a decoder layer, as an object that a device may replace piece by piece.

`TorchOps` is the plain reference: norms and rotations in float32, everything else in the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn import functional as F

from engine.models.rope import RotaryStep

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[tokens, in] -> [tokens, out], in the model's dtype."""


class LayerOps(Protocol):
    """What `Decoder` asks for. Tensors are [tokens, ...] in the model's dtype unless said otherwise."""

    def prepare_linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """Called once a matrix ([out, in]) at load; may repack it, the caller drops its own reference."""
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x / rms(x) * weight over the last dimension."""
        ...

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """residual += x in place; returns the norm of the sum."""
        ...

    def rotate(
        self,
        qkv: torch.Tensor,
        num_heads: int,
        num_kv_heads: int,
        rotary: RotaryStep,
        norms: tuple[torch.Tensor, torch.Tensor] | None,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """qkv [tokens, (heads + 2 kv_heads) * head_dim] -> q, k, v [tokens, (kv_)heads, head_dim], rotated.

        `norms`: Qwen3's weights for q and k, applied to each head before the rotation.
        """
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(first half) * second half of the last dimension."""
        ...


def rotate_half(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate x [tokens, heads, head_dim]: pairs are (i, i + head_dim / 2). Computed in float32."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class TorchOps:
    """The reference, for any device."""

    def prepare_linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return lambda x: F.linear(x, weight, bias)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        residual += x
        return self.rms_norm(residual, weight, eps)

    def rotate(
        self,
        qkv: torch.Tensor,
        num_heads: int,
        num_kv_heads: int,
        rotary: RotaryStep,
        norms: tuple[torch.Tensor, torch.Tensor] | None,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads = qkv.view(len(qkv), num_heads + 2 * num_kv_heads, -1)
        query, key, value = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads], dim=1)
        if norms is not None:
            query, key = self.rms_norm(query, norms[0], eps), self.rms_norm(key, norms[1], eps)
        query, key = rotate_half(query, rotary.cos, rotary.sin), rotate_half(key, rotary.cos, rotary.sin)
        if rotary.query_scale is not None:
            query = query * rotary.query_scale[:, None, None]
        return query.to(qkv.dtype), key.to(qkv.dtype), value

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
