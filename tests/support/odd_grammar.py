"""Stands for a grammar's compiler and its matcher: odd ids, then even ones, and so on."""

from __future__ import annotations

import torch

from engine.errors import RequestError
from engine.request import GrammarSpec


class OddThenEven:
    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._odd = 1

    def start(self, spec: GrammarSpec) -> OddThenEven:
        return OddThenEven(self._vocab)

    def accept(self, token_id: int) -> None:
        if token_id % 2 != self._odd:
            raise RequestError("not allowed")
        self._odd = 1 - self._odd

    def mask(self) -> torch.Tensor:
        return torch.full((-(-self._vocab // 32),), 0x55555555, dtype=torch.int32) << self._odd
