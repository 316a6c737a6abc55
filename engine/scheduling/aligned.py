"""Aligned shortest job first: only the sequences at the smallest position run, until the others are caught up with.

The classic answer to mixed lengths without paged attention: every batch is rectangular, so no padding and no mask is
needed. With lengths [50, 52, 55, 60, 100] the 50 runs alone, then the 51; at 52 two run together, at 55 three, at 60
four. Ragged batches over paged memory make it unnecessary; it stays as the exact, slow reference.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.request import Sequence
from engine.scheduling.one_queue import OneQueue


class AlignedShortestFirst(OneQueue):
    """A new prompt stands at position 0; prompts of equal length are read together, the shortest first."""

    name = "aligned-sjf"
    shares_prefills = False
    """Equal prompts prefill together; waiting for each other would pull them out of line."""

    def __init__(self) -> None:
        super().__init__(_length)

    def select_step(self, running: Seq[Sequence]) -> Seq[Sequence]:
        """The sequences at the smallest position; among those the ones with the fewest tokens to compute.

        The second rule only parts prompts of different lengths that start at one position: they make no rectangle.
        """
        if not running:
            return running
        first = min((s.request.priority, s.num_computed, s.num_uncomputed) for s in running)
        return [s for s in running if (s.request.priority, s.num_computed, s.num_uncomputed) == first]


def _length(sequence: Sequence) -> float:
    return float(len(sequence.token_ids))
