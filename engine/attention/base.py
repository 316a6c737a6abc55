"""What the models ask of attention, whatever computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """Where each row of a ragged step stands. All tensors are int32 on the step's device, but for two.

    Tokens of the rows lie one after another in the step's [tokens, ...] tensors; decode rows come first. Slots and
    positions are int64 on CPU, where torch indexes with them, and int32 on CUDA, where padding has negative slots.
    """

    query_start: torch.Tensor  # [rows + 1] first token of each row, then the total
    context_len: torch.Tensor  # [rows] keys of each row once this step's are stored
    block_table: torch.Tensor  # [rows, max_blocks]
    slot_mapping: torch.Tensor  # [tokens] block * block_size + offset where each token's K and V go
    positions: torch.Tensor  # [tokens]
    num_decode_rows: int
    max_query_len: int
    max_context_len: int
    block_size: int
    host_rows: tuple[tuple[int, int, tuple[int, ...]], ...] = ()
    """(query length, context length, block table) of each row as Python ints; CPU backends read these."""
    shared_len: torch.Tensor | None = None  # [1]
    """How many first keys all decode rows have in common: whole blocks, fewer than any context has. Backends that
    `reads_shared_prefix` read those once for all rows."""


class AttentionBackend(Protocol):
    """Causal attention over paged keys and values."""

    name: str
    block_sizes: tuple[int, ...]
    """Supported block sizes, the preferred one first."""
    reads_shared_prefix: bool
    """Whether `AttentionMetadata.shared_len` makes decode rows faster."""

    def store(
        self,
        key: torch.Tensor,  # [tokens, kv_heads, head_dim]
        value: torch.Tensor,  # [tokens, kv_heads, head_dim]
        key_cache: torch.Tensor,  # [blocks, block_size, kv_heads, head_dim]
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
    ) -> None:
        """Write this step's keys and values to their slots."""
        ...

    def attend(
        self,
        query: torch.Tensor,  # [tokens, heads, head_dim]
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:  # [tokens, heads, head_dim]
        """Each query attends to its row's keys at positions <= its own (and > its own - window)."""
        ...
