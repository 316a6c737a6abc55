"""Which tokens each slot's sequence holds, on the device: penalties need no history of the host's."""

from __future__ import annotations

import numpy as np
import torch

from engine.kernels.processors import IN_PROMPT, SAMPLED_ONCE
from engine.request import Sequence
from engine.runner.transfers import to_device


class TokenCounts:
    """One row a slot, filled when a sequence is first sampled there; the device counts what is sampled later."""

    def __init__(self, slots: int, vocab: int, device: torch.device) -> None:
        width = -(-vocab // 16) * 16  # rows that begin at round addresses are read faster
        self.counts = torch.zeros((slots + 1, width), dtype=torch.int32, device=device)[:, :vocab]
        """[slots and the dummy, vocab] as `engine.kernels.processors` reads them."""
        self._owner: list[Sequence | None] = [None] * slots

    def meet(self, sequence: Sequence) -> None:
        """A token of it is about to be sampled. The first time in its slot, all others must be on the host."""
        if self._owner[sequence.slot] is not sequence:
            self._owner[sequence.slot] = sequence
            row = self.counts[sequence.slot].zero_()
            ids = np.array(sequence.token_ids, dtype=np.int64)
            row.index_fill_(0, self._known(ids[: sequence.num_prompt]), IN_PROMPT)
            output = self._known(ids[sequence.num_prompt :])
            row.index_add_(0, output, torch.full_like(output, SAMPLED_ONCE, dtype=torch.int32))

    def forget(self, slot: int) -> None:
        """Its next sequence is another one, or comes with another history."""
        self._owner[slot] = None

    def _known(self, ids: np.ndarray) -> torch.Tensor:
        """Those within the vocabulary, on the device."""
        return to_device(ids[(ids >= 0) & (ids < self.counts.shape[1])], torch.int64, self.counts.device)
