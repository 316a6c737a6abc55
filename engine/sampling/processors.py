"""Changes of a row's logits before temperature: bias, allowed ids, bad words, grammar, min_tokens, penalties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from engine.sampling.row import SamplingRow

_NEVER = float("-inf")


def needs_processing(row: SamplingRow) -> bool:
    params = row.params
    return bool(
        params.logit_bias
        or params.allowed_token_ids
        or params.bad_words
        or row.mask is not None
        or params.min_tokens
        or params.penalised
    )


def process(logits: torch.Tensor, row: SamplingRow) -> None:
    """Change one row [vocab] of float32 logits in place. Ids outside the vocabulary are passed over."""
    params, vocab = row.params, len(logits)
    if params.logit_bias:
        bias = {i: b for i, b in params.logit_bias.items() if 0 <= i < vocab}
        logits[_ids(bias, logits)] += torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
    if params.allowed_token_ids:
        _keep_only(logits, [i for i in params.allowed_token_ids if 0 <= i < vocab])
    if params.bad_words and (forbidden := {i for i in bad_word_ends(row) if i < vocab}):
        logits[_ids(forbidden, logits)] = _NEVER
    if row.mask is not None:
        apply_bitmask(logits, row.mask)
    if len(row.token_ids) - row.num_prompt < params.min_tokens:
        ends = {i for i in (*params.eos_token_ids, *params.stop_token_ids) if 0 <= i < vocab}
        logits[_ids(ends, logits)] = _NEVER
    if params.penalised:
        _penalise(logits, row)


def bad_word_ends(row: SamplingRow) -> list[int]:
    """Tokens that would complete a bad word: its last token, where the output ends with all before it."""
    num_output = len(row.token_ids) - row.num_prompt
    ends: list[int] = []
    for *begin, end in row.params.bad_words:
        # The last token alone parts nearly all, so that long words cost as little as short ones.
        if not begin or (
            len(begin) <= num_output
            and row.token_ids[-1] == begin[-1]
            and list(row.token_ids[-len(begin) :]) == begin
        ):
            ends.append(end)
    return ends


def _ids(ids: Iterable[int], logits: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(ids), dtype=torch.int64, device=logits.device)


def _keep_only(logits: torch.Tensor, allowed: list[int]) -> None:
    index = _ids(allowed, logits)
    kept = logits[index].clone()
    logits.fill_(_NEVER)
    logits[index] = kept


def apply_bitmask(logits: torch.Tensor, mask: torch.Tensor) -> None:
    """Forbid the tokens whose bit is not set; tokens past the mask's end are forbidden."""
    bits = torch.arange(32, dtype=torch.int32, device=mask.device)
    allowed = ((mask.unsqueeze(1) >> bits) & 1).bool().flatten()[: len(logits)].to(logits.device)
    logits[: len(allowed)].masked_fill_(~allowed, _NEVER)
    logits[len(allowed) :] = _NEVER


def _penalise(logits: torch.Tensor, row: SamplingRow) -> None:
    """Repetition over prompt and output; presence and frequency over the output."""
    params = row.params
    if params.repetition_penalty != 1.0:
        # Ids that occur twice are computed twice and written with the same value.
        seen = torch.from_numpy(_known(row.token_ids, logits)).to(logits.device)
        values = logits[seen]
        scaled = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        logits[seen] = scaled
    if params.presence_penalty or params.frequency_penalty:
        ids, counts = np.unique(_known(row.output_ids, logits), return_counts=True)
        number = torch.from_numpy(counts).to(logits.device, logits.dtype)
        logits[torch.from_numpy(ids).to(logits.device)] -= number * params.frequency_penalty + params.presence_penalty


def _known(token_ids: Sequence[int], logits: torch.Tensor) -> npt.NDArray[np.int64]:
    ids = np.asarray(token_ids, dtype=np.int64)
    return ids[(ids >= 0) & (ids < len(logits))]
