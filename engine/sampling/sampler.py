"""From logits to tokens, many rows at a time.

Each row goes the cheapest way its parameters allow: greedy rows take the argmax; filtered rows (top_k, top_p, min_p)
draw among their likeliest tokens; the others draw from the whole vocabulary. All ways give the same token where more
than one could be taken, since the noise of a token depends on nothing but (seed, position, token id).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite

import torch

from engine.runner.batch import NOT_A_NUMBER, NOTHING_ALLOWED, SampledToken
from engine.sampling.filters import CANDIDATES, filtering, find_candidates
from engine.sampling.logprobs import raw_logprobs
from engine.sampling.noise import gumbel, key_tensors
from engine.sampling.processors import needs_processing, process
from engine.sampling.row import SamplingRow

NOISE_CHUNK = 16384
"""Tokens whose noise is computed at once: the intermediate results stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class SamplerOutput:
    """Parallel to the rows: None where a row failed, with its reason by row number in `failed`."""

    tokens: list[SampledToken | None]
    failed: dict[int, str] = field(default_factory=dict)


RowChooser = Callable[[torch.Tensor, list[SamplingRow]], tuple[list[int], list[float]]]
"""(logits [rows, vocab], rows) -> token and score of each row, as `choose` defines them."""


class Sampler:
    """Stateless but for its tables. `vocab_size`: ids from there on (rows that only pad the matrix) are not drawn."""

    def __init__(
        self, vocab_size: int, device: torch.device | str = "cpu", chooser: RowChooser | None = None
    ) -> None:
        """`chooser` replaces the torch code below by a faster one of the same definition."""
        self._vocab_size = vocab_size
        self._all_ids = torch.arange(vocab_size, dtype=torch.int32, device=device)
        self._choose = chooser or self.choose

    def sample(self, logits: torch.Tensor, rows: list[SamplingRow]) -> SamplerOutput:
        """`logits` [rows, vocab] float32; they may be overwritten."""
        reported = [number for number, row in enumerate(rows) if row.params.logprobs is not None]
        raw = logits[reported] if reported else None
        usable = logits[:, : self._vocab_size]
        for number, row in enumerate(rows):
            if needs_processing(row):
                process(usable[number], row)
        chosen, scores = self._choose(usable, rows)
        output = SamplerOutput([None] * len(rows))
        for number, (token, score) in enumerate(zip(chosen, scores, strict=True)):
            if isfinite(score):
                output.tokens[number] = SampledToken(token)
            else:
                output.failed[number] = NOTHING_ALLOWED if score == -inf else NOT_A_NUMBER
        if raw is not None:
            self._report(raw, reported, rows, chosen, output)
        return output

    def _report(
        self,
        raw: torch.Tensor,
        reported: list[int],
        rows: list[SamplingRow],
        chosen: list[int],
        output: SamplerOutput,
    ) -> None:
        top = [rows[number].params.logprobs or 0 for number in reported]
        entries = raw_logprobs(raw, [chosen[number] for number in reported], top)
        for number, entry in zip(reported, entries, strict=True):
            if output.tokens[number] is not None:
                output.tokens[number] = SampledToken(chosen[number], entry)

    def choose(self, logits: torch.Tensor, rows: list[SamplingRow]) -> tuple[list[int], list[float]]:
        """Token and score of each row; may overwrite `logits` [rows, vocab].

        A score of -inf means that no token was allowed, NaN or inf that the logits held one.
        """
        ways: tuple[list[int], list[int], list[int]] = ([], [], [])
        for number, row in enumerate(rows):
            ways[0 if row.params.greedy else 1 if filtering(row.params) else 2].append(number)
        tokens, scores = [0] * len(rows), [0.0] * len(rows)
        for numbers, choose in zip(ways, (self._greedy, self._filtered, self._unfiltered), strict=True):
            if not numbers:
                continue
            part = logits if len(numbers) == len(rows) else logits[numbers]
            found = choose(part, [rows[number] for number in numbers])
            for number, token, score in zip(numbers, *found, strict=True):
                tokens[number], scores[number] = token, score
        return tokens, scores

    def _greedy(self, logits: torch.Tensor, rows: list[SamplingRow]) -> tuple[list[int], list[float]]:
        best = logits.argmax(1)  # the first of equals: the lowest id
        return best.tolist(), logits.gather(1, best.unsqueeze(1)).squeeze(1).tolist()

    def _unfiltered(self, logits: torch.Tensor, rows: list[SamplingRow]) -> tuple[list[int], list[float]]:
        return self._draw(_scaled(logits, rows), rows)

    def _filtered(self, logits: torch.Tensor, rows: list[SamplingRow]) -> tuple[list[int], list[float]]:
        logits = _scaled(logits, rows)
        params = [row.params for row in rows]
        widest = max(p.top_k if 0 < p.top_k < CANDIDATES else CANDIDATES - 1 for p in params)
        found = find_candidates(logits, params, widest + 1)
        keys = _keys(rows, logits.device)
        score = found.logits + gumbel(*keys, found.ids.int())
        value, at = score.masked_fill_(found.logits < found.threshold.unsqueeze(1), float("-inf")).max(1)
        tokens, scores = found.ids.gather(1, at.unsqueeze(1)).squeeze(1).tolist(), value.tolist()
        for number in (~found.complete).nonzero().flatten().tolist():
            row = logits[number : number + 1]
            threshold = find_candidates(row, [params[number]], row.shape[1]).threshold
            row = row.masked_fill(row < threshold.unsqueeze(1), float("-inf"))
            (tokens[number],), (scores[number],) = self._draw(row, [rows[number]])
        return tokens, scores

    def _draw(self, logits: torch.Tensor, rows: list[SamplingRow]) -> tuple[list[int], list[float]]:
        """Gumbel-max over the whole vocabulary; adds the noise in place."""
        key0, key1 = _keys(rows, logits.device)
        for number in range(len(rows)):
            for start in range(0, logits.shape[1], NOISE_CHUNK):
                ids = self._all_ids[start : start + NOISE_CHUNK]
                logits[number, start : start + NOISE_CHUNK] += gumbel(key0[number], key1[number], ids)
        return self._greedy(logits, rows)


def _scaled(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    temperatures = torch.tensor([row.params.temperature for row in rows], device=logits.device)
    return logits.div_(temperatures.unsqueeze(1))


def _keys(rows: list[SamplingRow], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return key_tensors([(row.params.seed or 0, row.position) for row in rows], device)
