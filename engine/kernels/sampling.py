"""Temperature sampling by the Gumbel trick: argmax of logits / temperature + noise, with counter-based noise.

Noise is a function of (seed, position, token id) and nothing else, see `engine.sampling.noise`, so a row's token does
not depend on the batch around it. Greedy rows are rows of temperature zero: they get no noise. Two kernels, so that
one row also uses the whole chip.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.common import (
    ceil_div,
    launch_options,
    let_next_kernel_start,
    next_power_of_two,
    wait_for_previous_kernel,
)
from engine.kernels.noise import gumbel
from engine.kernels.step_state import StateLayout

BLOCK = 4096
BROKEN = -1
NOTHING_ALLOWED = -2


@triton.jit
def _best_of_block(
    logits,
    state,
    slots,
    threshold,
    block_value,
    block_token,
    vocab,
    stride,
    position_at,
    temperature_at,
    seed_low_at,
    seed_high_at,
    BLOCK: tl.constexpr,
    FILTERED: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0)
    block = tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    wait_for_previous_kernel(PDL)
    let_next_kernel_start(PDL)
    slot = tl.load(slots + row)
    temperature = tl.load(state + temperature_at + slot).to(tl.float32, bitcast=True)
    score = tl.load(logits + row.to(tl.int64) * stride + token, mask=token < vocab, other=float("-inf")).to(
        tl.float32
    )
    broken = tl.max((score != score).to(tl.int32), 0)
    if temperature > 0.0:
        if FILTERED:
            score = tl.where(score >= tl.load(threshold + row), score, float("-inf"))
        position = tl.load(state + position_at + slot) + 1
        low, high = tl.load(state + seed_low_at + slot), tl.load(state + seed_high_at + slot)
        score = score / temperature + gumbel(low, high, position, token)
    value, index = tl.max(score, 0, return_indices=True)
    at = row * tl.num_programs(1) + block
    tl.store(block_value + at, tl.where(broken > 0, float("inf"), value))
    tl.store(block_token + at, tl.where(broken > 0, -1, block * BLOCK + index))


@triton.jit
def _best_of_row(
    block_value,
    block_token,
    state,
    slots,
    sampled,
    blocks,
    position_at,
    dummy,
    BLOCKS: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0)
    index = tl.arange(0, BLOCKS)
    wait_for_previous_kernel(PDL)
    value = tl.load(block_value + row * blocks + index, mask=index < blocks, other=float("-inf"))
    best_value, best = tl.max(value, 0, return_indices=True)
    token = tl.load(block_token + row * blocks + best)
    token = tl.where(best_value == float("-inf"), -2, token)
    token = tl.where(best_value == float("inf"), -1, token)
    tl.store(sampled + row, token)
    slot = tl.load(slots + row)
    if slot < dummy:
        tl.store(state + slot, tl.maximum(token, 0))
        tl.store(state + position_at + slot, tl.load(state + position_at + slot) + 1)


def gumbel_sample(
    logits: torch.Tensor,  # [rows, vocab]
    state: torch.Tensor,
    layout: StateLayout,
    slots: torch.Tensor,  # [rows] int32: whose temperature, seed and position each row uses
    sampled: torch.Tensor,  # [rows] int32, written
    vocab: int | None = None,
    threshold: torch.Tensor | None = None,  # [rows] float32: smaller logits are not sampled
    pdl: bool = False,
) -> None:
    """Sample a token a row into `sampled`, and into the state: it becomes the slot's last token, one position on.

    `vocab`: ids from there on are not sampled. A row with a NaN or an infinity among its logits gets BROKEN, one
    without any allowed token NOTHING_ALLOWED.
    """
    rows = logits.shape[0]
    vocab = logits.shape[1] if vocab is None else vocab
    blocks = ceil_div(vocab, BLOCK)
    value = torch.empty((rows, blocks), dtype=torch.float32, device=logits.device)
    token = torch.empty((rows, blocks), dtype=torch.int32, device=logits.device)
    _best_of_block[(rows, blocks)](
        logits, state, slots, threshold if threshold is not None else value, value, token, vocab, logits.stride(0),
        layout.position, layout.temperature, layout.seed_low, layout.seed_high,
        BLOCK=BLOCK,
        FILTERED=threshold is not None,
        num_warps=8,
        **launch_options(pdl),
    )  # fmt: skip
    _best_of_row[(rows,)](
        value,
        token,
        state,
        slots,
        sampled,
        blocks,
        layout.position,
        layout.slots,
        BLOCKS=next_power_of_two(blocks),
        num_warps=1,
        **launch_options(pdl),
    )
