"""Paged attention of the native CPU kernels, for models whose other parts torch computes."""

from __future__ import annotations

import torch

from engine.attention.base import AttentionMetadata
from engine.attention.reference import PlainStore
from engine.attention.registry import ProbeContext, ProbeResult
from engine.native.library import DTYPES, Native, load_native


class NativeAttention(PlainStore):
    """Reads pages in place, whatever their size."""

    name = "native"
    block_sizes: tuple[int, ...] = (32,)

    def __init__(self, native: Native) -> None:
        self._native = native

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        return self._native.paged_attention(query.contiguous(), key_cache, value_cache, metadata, scale, window)


def probe(context: ProbeContext) -> ProbeResult:
    """The backend for this machine and model, or why not."""
    if context.device.type != "cpu":
        return None, "runs on CPU only"
    if context.dtype not in DTYPES:
        return None, f"has no {context.dtype}"
    native = load_native(torch.get_num_threads())
    if native is None:
        return None, "the kernels do not run here"
    if context.head_dim % native.strip(context.dtype):
        return None, f"head_dim {context.head_dim} is not a multiple of {native.strip(context.dtype)}"
    return NativeAttention(native), native.instructions
