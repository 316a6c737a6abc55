"""What the sampler knows of one row."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One position whose next token is wanted."""

    params: SamplingParams
    token_ids: Seq[int]
    """Prompt and output so far; the token to sample is the next one, at position len(token_ids)."""
    num_prompt: int
    mask: torch.Tensor | None = None
    """Grammar: int32 [ceil(vocab / 32)], bit i of word w is set where token 32 * w + i is allowed."""

    @property
    def position(self) -> int:
        return len(self.token_ids)

    @property
    def output_ids(self) -> Seq[int]:
        return self.token_ids[self.num_prompt :]
