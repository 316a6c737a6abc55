"""Rotary position embedding: tables of cosines and sines, and what one step needs of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from engine.models.config import ModelConfig, RopeConfig


@dataclass(frozen=True, slots=True)
class RotaryStep:
    """Rotation of each token of a step, the same for all layers."""

    cos: torch.Tensor  # [tokens, head_dim / 2] float32
    sin: torch.Tensor  # [tokens, head_dim / 2] float32
    query_scale: torch.Tensor | None = None  # [tokens] float32: logn attention of Qwen 1


def inverse_frequencies(rope: RopeConfig, head_dim: int, alpha: float = 1.0) -> torch.Tensor:
    """[head_dim / 2] float32. `alpha` is the dynamic NTK factor of Qwen 1, 1 for all others."""
    theta = rope.theta * alpha ** (head_dim / (head_dim - 2)) if alpha != 1.0 else rope.theta
    plain = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "yarn":
        keep = _yarn_keep(rope, head_dim)
        return plain / rope.factor * (1 - keep) + plain * keep
    return plain


def _yarn_keep(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """[head_dim / 2]: 1 where a dimension keeps its frequency, 0 where it is interpolated (arXiv 2309.00071)."""

    def dimension(rotations: float) -> float:
        length = rope.original_max_position / (rotations * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)
    return 1 - ramp.clamp(0, 1)


def rope_tables(
    config: ModelConfig, max_len: int, device: torch.device | str, alpha: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin), each [max_len, head_dim / 2] float32, with YaRN's attention factor inside."""
    frequencies = inverse_frequencies(config.rope, config.head_dim, alpha)
    angles = torch.outer(torch.arange(max_len, dtype=torch.float32), frequencies)
    factor = config.rope.attention_factor
    return (angles.cos() * factor).to(device), (angles.sin() * factor).to(device)


def ntk_alpha(prompt_len: int, seq_length: int) -> float:
    """Dynamic NTK factor of Qwen 1 (1, 3, 7, 15, ... for prompts up to 1, 2, 4, 8 times seq_length tokens)."""
    return max(2.0 ** math.ceil(math.log2(prompt_len / seq_length) + 1) - 1, 1.0) if prompt_len > seq_length else 1.0


class Rotary:
    """Tables of one model, built once; dynamic NTK adds one pair of tables for each alpha met."""

    def __init__(self, config: ModelConfig, max_len: int, device: torch.device | str, extrapolate: bool) -> None:
        self._config = config
        self._max_len = max_len
        self._device = device
        self._dynamic = extrapolate and config.dynamic_ntk
        self._tables = {1.0: rope_tables(config, max_len, device)}
        self._query_scale: torch.Tensor | None = None
        if extrapolate and config.logn_attention:
            positions = torch.arange(1, max_len + 1, dtype=torch.float32)
            scale = positions.log() / math.log(config.seq_length)
            self._query_scale = torch.where(positions > config.seq_length, scale, 1.0).to(device)

    def step(self, positions: torch.Tensor, rows: list[tuple[int, int]]) -> RotaryStep:
        """`positions` [tokens] int64; `rows`: (tokens, prompt length) of each row, in order."""
        scale = None if self._query_scale is None else self._query_scale[positions]
        if not self._dynamic:
            cos, sin = self._tables[1.0]
            return RotaryStep(cos[positions], sin[positions], scale)
        parts = [self._table(prompt_len) for _, prompt_len in rows]
        pieces = torch.split(positions, [count for count, _ in rows])
        cos = torch.cat([table[0][piece] for table, piece in zip(parts, pieces, strict=True)])
        sin = torch.cat([table[1][piece] for table, piece in zip(parts, pieces, strict=True)])
        return RotaryStep(cos, sin, scale)

    def _table(self, prompt_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = ntk_alpha(prompt_len, self._config.seq_length)
        if alpha not in self._tables:
            self._tables[alpha] = rope_tables(self._config, self._max_len, self._device, alpha)
        return self._tables[alpha]
