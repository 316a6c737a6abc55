"""Choosing tokens in native code: a few passes over a row instead of a dozen."""

from __future__ import annotations

import struct

import torch

from engine.native.library import Native
from engine.sampling.noise import noise_keys
from engine.sampling.row import SamplingRow

_ROW = struct.Struct("=fffiII")
"""SampleRow of sampling.h."""


class NativeChooser:
    """A RowChooser for `engine.sampling.sampler.Sampler`; it leaves the logits as they are."""

    def __init__(self, native: Native) -> None:
        self._native = native

    def __call__(self, logits: torch.Tensor, rows: list[SamplingRow]) -> tuple[list[int], list[float]]:
        return self._native.sample(logits, b"".join(map(_packed, rows)))


def _packed(row: SamplingRow) -> bytes:
    params = row.params
    if params.greedy:
        return _ROW.pack(0.0, 1.0, 0.0, 0, 0, 0)
    key0, key1 = noise_keys(params.seed or 0, row.position)
    top_k = min(max(params.top_k, 0), 2**31 - 1)
    return _ROW.pack(params.temperature, params.top_p, params.min_p, top_k, key0, key1)
