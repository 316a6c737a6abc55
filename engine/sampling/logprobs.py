"""Raw log-probabilities: of the logits as the model gave them, before bias, penalties and temperature."""

from __future__ import annotations

import torch

from engine.request import TokenLogprobs


def raw_logprobs(logits: torch.Tensor, token_ids: list[int], top: list[int]) -> list[TokenLogprobs]:
    """One entry for each row of `logits` [rows, vocab] float32.

    `token_ids`: the token of each row that is reported; `top`: how many of the likeliest ones come with it.
    """
    tokens = torch.tensor(token_ids, device=logits.device).unsqueeze(1)
    totals = logits.logsumexp(1, keepdim=True)
    chosen = logits.gather(1, tokens)
    ranks = ((logits > chosen).sum(1) + 1).tolist()
    logprobs = (chosen - totals).squeeze(1).tolist()
    widest = min(max(top, default=0), logits.shape[1])
    if widest == 0:
        return [TokenLogprobs(logprob, rank) for logprob, rank in zip(logprobs, ranks, strict=True)]
    values, ids = torch.topk(logits, widest, dim=1)
    top_logprobs, top_ids = (values - totals).tolist(), ids.tolist()
    return [
        TokenLogprobs(logprobs[row], ranks[row], tuple(top_ids[row][:k]), tuple(top_logprobs[row][:k]))
        for row, k in enumerate(top)
    ]
