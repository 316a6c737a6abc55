"""top_k, top_p and min_p as one threshold a row: tokens whose logit is at least the threshold are kept.

Tokens whose logits are exactly equal stand or fall together, so that the result does not depend on how a sort breaks
ties. The likeliest CANDIDATES tokens decide almost always; a row they cannot decide is sorted whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.sampling_params import SamplingParams

CANDIDATES = 1024


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest tokens of each row, descending, and where each row's kept ones end."""

    ids: torch.Tensor  # [rows, n] int64
    logits: torch.Tensor  # [rows, n] float32, temperature applied
    threshold: torch.Tensor  # [rows] float32
    complete: torch.Tensor  # [rows] bool: all tokens at or above the threshold are among the candidates


def filtering(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def find_candidates(logits: torch.Tensor, params: list[SamplingParams], number: int) -> Candidates:
    """`logits` [rows, vocab] with temperature applied; `number` of candidates at most."""
    vocab = logits.shape[1]
    number = min(number, vocab)
    values, ids = torch.topk(logits, number, dim=1)
    top_k = torch.tensor([p.top_k if 0 < p.top_k < vocab else vocab for p in params], device=logits.device)
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=logits.device)
    min_p = torch.tensor([max(p.min_p, 1e-30) for p in params], dtype=torch.float32, device=logits.device)

    kth = values.gather(1, (top_k.clamp(max=number) - 1).unsqueeze(1))
    in_top_k = (values >= kth) | (top_k > number).unsqueeze(1)
    limited = values.double().masked_fill(~in_top_k, float("-inf"))
    total = torch.where(top_k < vocab, limited.logsumexp(1), logits.logsumexp(1).double())
    probability = (limited - total.unsqueeze(1)).exp()
    mass = probability.cumsum(1)
    nucleus = in_top_k & ((mass - probability < top_p.unsqueeze(1)) | (top_p >= 1.0).unsqueeze(1))
    nucleus[:, 0] = True
    last = nucleus.sum(1, keepdim=True) - 1
    threshold = values.gather(1, last).squeeze(1)
    threshold = torch.maximum(threshold, values[:, 0] + min_p.log())
    # The last candidate lies below the threshold, so whatever comes after it does as well; and top_k's own border,
    # which the mass of the nucleus rests on, was found.
    border_found = (top_k >= vocab) | ((top_k < number) & (values[:, -1] < kth.squeeze(1)))
    complete = (values[:, -1] < threshold) & border_found
    if number == vocab:
        complete = torch.ones_like(complete)
    return Candidates(ids, values, threshold, complete)
