"""flash-attn 2 in its classic form: pages of 256 tokens, block tables, rotation and append inside the decode call."""

from __future__ import annotations

import torch

from engine.attention.base import AttentionMetadata
from engine.attention.reference import PlainStore
from engine.attention.registry import ProbeContext, ProbeResult


class FlashAttention2(PlainStore):
    """`flash_attn_with_kvcache` for decode rows, `flash_attn_varlen_func` for prefill chunks."""

    name = "flash-attn"
    block_sizes: tuple[int, ...] = (256,)

    def __init__(self) -> None:
        from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache

        self._with_kvcache = flash_attn_with_kvcache
        self._varlen = flash_attn_varlen_func

    def decode_with_append(
        self,
        query: torch.Tensor,  # [rows, heads, head_dim], not rotated
        key: torch.Tensor,  # [rows, kv_heads, head_dim], not rotated
        value: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        cos: torch.Tensor,  # [max_len, head_dim / 2] in the query's dtype
        sin: torch.Tensor,
        cached_len: torch.Tensor,  # [rows] int32: keys before this step's
        block_table: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:  # [rows, heads, head_dim]
        """Rotate, append and attend in one call: what a model without QK-norm needs for a decode step."""
        out: torch.Tensor = self._with_kvcache(
            query[:, None],
            key_cache,
            value_cache,
            key[:, None],
            value[:, None],
            rotary_cos=cos,
            rotary_sin=sin,
            cache_seqlens=cached_len,
            block_table=block_table,
            softmax_scale=scale,
            causal=True,
            rotary_interleaved=False,
        )
        return out[:, 0]

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        decoding, rows = metadata.num_decode_rows, metadata.context_len.shape[0]
        sides = (-1, -1) if window is None else (window - 1, 0)
        parts: list[torch.Tensor] = []
        if decoding:
            decoded: torch.Tensor = self._with_kvcache(
                query[:decoding, None],
                key_cache,
                value_cache,
                cache_seqlens=metadata.context_len[:decoding],
                block_table=metadata.block_table[:decoding],
                softmax_scale=scale,
                causal=True,
                window_size=sides,
            )
            parts.append(decoded[:, 0])
        if decoding < rows:
            lengths = metadata.context_len[decoding:]
            key_start = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
            chunk: torch.Tensor = self._varlen(
                query[decoding:],
                key_cache,
                value_cache,
                metadata.query_start[decoding:] - decoding,
                key_start,
                metadata.max_query_len,
                metadata.max_context_len,
                softmax_scale=scale,
                causal=True,
                window_size=sides,
                block_table=metadata.block_table[decoding:],
            )
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def probe(context: ProbeContext) -> ProbeResult:
    """Needs Ampere or newer, 16-bit tensors and the package."""
    if context.capability < (8, 0):
        return None, "needs an NVIDIA GPU of compute capability 8.0"
    if context.dtype not in (torch.bfloat16, torch.float16):
        return None, f"needs 16-bit tensors, not {context.dtype}"
    if context.windowed:
        return None, "sliding windows are left out of common builds"
    try:
        return FlashAttention2(), "flash-attn 2 with 256-token pages"
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return None, f"not installed ({error})"
