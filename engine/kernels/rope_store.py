"""One kernel between the QKV product and attention: (sum of partials, bias,) QK-norm, rotary embedding, KV store."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import ceil_div, launch_options, let_next_kernel_start, wait_for_previous_kernel

HEADS_PER_PROGRAM = 4


@triton.jit
def _load_heads(qkv, offsets, split_stride, bias, bias_offsets, inside, SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr):
    values = tl.load(qkv + offsets, mask=inside, other=0.0).to(tl.float32)
    for split in tl.static_range(1, SPLITS):
        values += tl.load(qkv + split * split_stride + offsets, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        values += tl.load(bias + bias_offsets, mask=inside, other=0.0).to(tl.float32)
    return values


@triton.jit
def _qk_norm_rope_store(
    qkv,
    bias,
    q_weight,
    k_weight,
    cos_table,
    sin_table,
    positions,
    slot_mapping,
    q_out,
    k_cache,
    v_cache,
    eps,
    qkv_stride,
    split_stride,
    cache_token_stride,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    QK_NORM: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    half: tl.constexpr = HEAD_DIM // 2
    column = tl.arange(0, half)
    inside = (head[:, None] < Q_HEADS + 2 * KV_HEADS) & (column[None, :] < half)
    within = head[:, None] * HEAD_DIM + column[None, :]
    wait_for_previous_kernel(PDL)
    let_next_kernel_start(PDL)
    base = qkv + token * qkv_stride
    low = _load_heads(base, within, split_stride, bias, within, inside, SPLITS, HAS_BIAS)
    high = _load_heads(base, within + half, split_stride, bias, within + half, inside, SPLITS, HAS_BIAS)
    dtype: tl.constexpr = q_out.dtype.element_ty
    low, high = low.to(dtype).to(tl.float32), high.to(dtype).to(tl.float32)
    is_q, is_v = head < Q_HEADS, head >= Q_HEADS + KV_HEADS
    if QK_NORM:
        rstd = 1.0 / tl.sqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / HEAD_DIM + eps)
        rstd = tl.where(is_v, 1.0, rstd)[:, None]
        q_low, k_low = tl.load(q_weight + column)[None, :], tl.load(k_weight + column)[None, :]
        q_high, k_high = tl.load(q_weight + half + column)[None, :], tl.load(k_weight + half + column)[None, :]
        scale_low = tl.where(is_v[:, None], 1.0, tl.where(is_q[:, None], q_low, k_low).to(tl.float32))
        scale_high = tl.where(is_v[:, None], 1.0, tl.where(is_q[:, None], q_high, k_high).to(tl.float32))
        low = ((low * rstd).to(dtype).to(tl.float32) * scale_low).to(dtype).to(tl.float32)
        high = ((high * rstd).to(dtype).to(tl.float32) * scale_high).to(dtype).to(tl.float32)
    position = tl.load(positions + token).to(tl.int64)
    cos = tl.where(is_v[:, None], 1.0, tl.load(cos_table + position * half + column)[None, :])
    sin = tl.where(is_v[:, None], 0.0, tl.load(sin_table + position * half + column)[None, :])
    low, high = low * cos - high * sin, high * cos + low * sin
    q_offsets = token * Q_HEADS * HEAD_DIM + within
    tl.store(q_out + q_offsets, low.to(dtype), mask=inside & is_q[:, None])
    tl.store(q_out + q_offsets + half, high.to(dtype), mask=inside & is_q[:, None])
    slot = tl.load(slot_mapping + token).to(tl.int64)
    stored = inside & (slot >= 0)
    is_k = (head >= Q_HEADS) & (head < Q_HEADS + KV_HEADS)
    k_to = k_cache + slot * cache_token_stride + (head[:, None] - Q_HEADS) * HEAD_DIM + column[None, :]
    tl.store(k_to, low.to(dtype), mask=stored & is_k[:, None])
    tl.store(k_to + half, high.to(dtype), mask=stored & is_k[:, None])
    v_to = v_cache + slot * cache_token_stride + (head[:, None] - Q_HEADS - KV_HEADS) * HEAD_DIM + column[None, :]
    tl.store(v_to, low.to(dtype), mask=stored & is_v[:, None])
    tl.store(v_to + half, high.to(dtype), mask=stored & is_v[:, None])


def qk_norm_rope_store(
    qkv: torch.Tensor,  # [tokens, (q_heads + 2 * kv_heads) * head_dim], or float32 partials [splits, tokens, ...]
    bias: torch.Tensor | None,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    cos_table: torch.Tensor,  # [max_len, head_dim / 2] float32
    sin_table: torch.Tensor,
    positions: torch.Tensor,  # [tokens]
    slot_mapping: torch.Tensor,  # [tokens]; negative: not stored
    key_cache: torch.Tensor,  # [blocks, block_size, kv_heads, head_dim]
    value_cache: torch.Tensor,
    q_heads: int,
    pdl: bool = False,
) -> torch.Tensor:
    """Returns the rotated queries [tokens, q_heads, head_dim]; keys and values go to their slots."""
    tokens = qkv.shape[-2]
    kv_heads, head_dim = key_cache.shape[2], key_cache.shape[3]
    query = torch.empty((tokens, q_heads, head_dim), dtype=key_cache.dtype, device=qkv.device)
    _qk_norm_rope_store[(tokens, ceil_div(q_heads + 2 * kv_heads, HEADS_PER_PROGRAM))](
        qkv,
        bias if bias is not None else qkv,
        q_weight if q_weight is not None else qkv,
        k_weight if k_weight is not None else qkv,
        cos_table,
        sin_table,
        positions,
        slot_mapping,
        query,
        key_cache,
        value_cache,
        eps,
        qkv.stride(-2),
        qkv.stride(0) if qkv.dim() == 3 else 0,
        key_cache.stride(1),
        Q_HEADS=q_heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        HEADS=HEADS_PER_PROGRAM,
        SPLITS=qkv.shape[0] if qkv.dim() == 3 else 1,
        HAS_BIAS=bias is not None,
        QK_NORM=q_weight is not None,
        num_warps=2,
        **launch_options(pdl),
    )
    return query
