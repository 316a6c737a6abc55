"""Sampling written down in numpy, one row at a time, in float64 where that does not change what is compared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.sampling.row import SamplingRow

Floats = npt.NDArray[np.float64]


def fmix(x: np.uint32) -> np.uint32:
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def gumbel(seed: int, position: int, tokens: npt.NDArray[np.uint32]) -> Floats:
    with np.errstate(over="ignore"):
        low, high = np.uint32(seed % 2**32), np.uint32(seed // 2**32 % 2**32)
        place = np.uint32(position)
        key0 = fmix(fmix(low + np.uint32(0x9E3779B9)) ^ high ^ place)
        key1 = fmix((fmix(high + np.uint32(0x7F4A7C15)) ^ low) + place * np.uint32(0x9E3779B1))
        x = (tokens.astype(np.uint32) ^ key0) * np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x = (x + key1) * np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x9E3779B1)
        x ^= x >> np.uint32(15)
    uniform = (2.0 * (x >> np.uint32(9)) + 1.0) / 2.0**24
    return -np.log(-np.log(uniform))


def forbid_bad_words(out: Floats, row: SamplingRow) -> None:
    for word in row.params.bad_words:
        for token in range(len(out)):
            said = [*row.output_ids, token]
            if len(said) >= len(word) and said[-len(word) :] == list(word):
                out[token] = -np.inf


def process(logits: Floats, row: SamplingRow) -> Floats:
    params, out = row.params, logits.copy()
    for token, bias in params.logit_bias.items():
        out[token] += bias
    if params.allowed_token_ids:
        for token in range(len(out)):
            if token not in params.allowed_token_ids:
                out[token] = -np.inf
    forbid_bad_words(out, row)
    if row.mask is not None:
        words = row.mask.numpy().view(np.uint32)
        for token in range(len(out)):
            if not words[token // 32] >> np.uint32(token % 32) & np.uint32(1):
                out[token] = -np.inf
    if len(row.output_ids) < params.min_tokens:
        for token in (*params.eos_token_ids, *params.stop_token_ids):
            out[token] = -np.inf
    for token in set(row.token_ids):
        penalty = params.repetition_penalty
        out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
    for token in set(row.output_ids):
        out[token] -= params.presence_penalty + params.frequency_penalty * list(row.output_ids).count(token)
    return out


def keep(logits: Floats, row: SamplingRow) -> npt.NDArray[np.bool_]:
    """Which tokens top_k, top_p and min_p leave."""
    params = row.params
    kept = np.ones(len(logits), dtype=bool)
    if 0 < params.top_k < len(logits):
        kept &= logits >= np.sort(logits)[-params.top_k]
    if params.top_p < 1.0:
        weight = np.where(kept, np.exp(logits - logits.max()), 0.0)
        weight /= weight.sum()
        order = np.argsort(-logits, kind="stable")
        before = np.cumsum(weight[order]) - weight[order]
        nucleus = order[: max(1, int((before < params.top_p).sum()))]
        kept &= logits >= logits[nucleus].min()
    if params.min_p > 0.0:
        kept &= logits >= logits.max() + np.log(params.min_p)
    return kept


def sample(logits: npt.NDArray[np.float32], row: SamplingRow) -> int:
    params = row.params
    out = process(logits.astype(np.float64), row)
    if params.greedy:
        return int(out.argmax())
    out /= params.temperature
    out[~keep(out, row)] = -np.inf
    tokens = np.arange(len(out), dtype=np.uint32)
    return int((out + gumbel(params.seed or 0, len(row.token_ids), tokens)).argmax())
