"""The KV cache as one tensor, and how many blocks of it there may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.errors import ConfigurationError
from engine.memory.arena import Arena

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class KvLayout:
    """[2, layers, blocks, block_size, kv_heads, head_dim]: keys, then values. Block 0 is the dummy."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype

    @property
    def block_nbytes(self) -> int:
        """Bytes of one block: keys and values of block_size tokens in all layers."""
        return 2 * self.num_layers * self.block_size * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def allocate(self, num_blocks: int, device: torch.device | str) -> torch.Tensor:
        """Zeroed, so that the dummy block never holds a NaN. On CPU memory is taken as it is first written."""
        shape = (2, self.num_layers, num_blocks, self.block_size, self.num_kv_heads, self.head_dim)
        if torch.device(device).type == "cpu":
            return Arena(num_blocks * self.block_nbytes).tensor(shape, self.dtype)
        return torch.zeros(shape, dtype=self.dtype, device=device)


def size_in_blocks(
    layout: KvLayout, memory_bytes: int, max_num_seqs: int, max_model_len: int, num_blocks: int | None = None
) -> int:
    """Blocks to allocate, the dummy included: what fits, but no more than max_num_seqs full sequences need.

    `num_blocks` overrides the memory. Raises ConfigurationError where not even one full sequence fits.
    """
    one = layout.blocks_for(max_model_len)
    found = num_blocks if num_blocks is not None else min(memory_bytes // layout.block_nbytes, max_num_seqs * one + 1)
    if found < one + 1:
        fits = max(0, found - 1) * layout.block_size
        way_out = f"lower max_model_len to at most {fits} or give" if fits else "give"
        raise ConfigurationError(
            f"the KV cache holds {fits} tokens ({found * layout.block_nbytes / GIB:.2f} GiB), one sequence of "
            f"max_model_len {max_model_len} needs {(one + 1) * layout.block_nbytes / GIB:.2f} GiB: "
            f"{way_out} the cache more memory"
        )
    return found
