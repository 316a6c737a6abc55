"""The grammars of the running sequences, one matcher a slot, kept in step with their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from engine.request import GrammarSpec, Sequence


class Matcher(Protocol):
    """Where one sequence stands in its grammar; see `engine.sampling.grammar_mask.GrammarState`."""

    def mask(self) -> torch.Tensor: ...

    def accept(self, token_id: int) -> None: ...


class Compiler(Protocol):
    """See `engine.sampling.grammar_mask.GrammarCompiler`."""

    def start(self, spec: GrammarSpec) -> Matcher: ...


@dataclass(slots=True)
class _Place:
    sequence: Sequence
    matcher: Matcher
    known: int
    """How many of the sequence's tokens the matcher has passed, the prompt counted in."""


class RowGrammars:
    """Owned by a runner. Rows with a grammar are launched only once all their tokens are on the host."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._places: dict[int, _Place] = {}

    def mask(self, sequence: Sequence) -> torch.Tensor:
        """int32 [words]: bit i of word w is set where token 32 * w + i may come next.

        Raises RequestError where the grammar is none or cannot be followed: the end of this request alone.
        """
        spec = sequence.request.grammar
        assert spec is not None
        place = self._places.get(sequence.slot)
        if place is None or place.sequence is not sequence:
            place = _Place(sequence, self._compiler.start(spec), sequence.num_prompt)
            self._places[sequence.slot] = place
        for token_id in sequence.token_ids[place.known :]:
            place.matcher.accept(token_id)
        place.known = len(sequence.token_ids)
        return place.matcher.mask()

    def forget(self, slot: int) -> None:
        """The slot's request has ended or lost its place."""
        self._places.pop(slot, None)
