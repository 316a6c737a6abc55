"""What the rows of a step ask of the sampler beyond temperature, put together once while the same rows run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from engine.request import EngineRequest
from engine.runner.batch import ScheduledRow
from engine.runner.transfers import to_device
from engine.sampling.filters import filtering
from engine.sampling.processors import bad_word_ends
from engine.sampling.row import SamplingRow
from engine.sampling_params import SamplingParams

Rows = tuple[ScheduledRow, ...]


def is_special(request: EngineRequest) -> bool:
    """Whether this request's rows cannot be sampled by temperature alone."""
    params = request.sampling
    return bool(
        (filtering(params) and not params.greedy)
        or params.logprobs is not None
        or params.prompt_logprobs is not None
        or params.logit_bias
        or params.allowed_token_ids
        or params.bad_words
        or params.min_tokens
        or params.penalised
        or request.grammar is not None
    )


class Filters(NamedTuple):
    """top_k, top_p and min_p of the rows that have any: the arguments of `engine.kernels.filters` in their order."""

    numbers: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    temperature: torch.Tensor


class Penalties(NamedTuple):
    """Of every row: the arguments of `engine.kernels.processors.penalise` in their order."""

    slots: torch.Tensor
    repetition: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor


class SpecialPlan:
    """Numbers of rows by what they ask for; what the device has to know of it is on its way there.

    None of it depends on the tokens so far but `waiting`, which says of whom to ask.
    """

    def __init__(self, rows: Rows, dummy: int, width: int, vocab: int, device: torch.device) -> None:
        """`dummy`: the slot of rows without penalties. `width`: of a row of logits, `vocab` ids of which count."""
        self._width, self._vocab, self._device = width, vocab, device
        samples = [(number, row.sequence.request.sampling) for number, row in enumerate(rows) if row.samples]
        self.grammars = [number for number, _ in samples if rows[number].sequence.request.grammar is not None]
        self.reported = [number for number, params in samples if params.logprobs is not None]
        self.worded = [number for number, params in samples if params.has_long_bad_words]
        self.waiting = [number for number, params in samples if params.min_tokens]
        self.counted = [number for number, params in samples if params.penalised]
        self._waiting: tuple[list[int], torch.Tensor | None] = [], None
        self.reported_index = to_device(self.reported, torch.int64, device)
        self.filters = self._filters(samples)
        self.allowed = self._allowed(samples)
        alone = [(number, word) for number, params in samples for word in params.bad_words if len(word) == 1]
        self.never = self._indices([(number, token) for number, (token,) in alone])
        self.bias = self._bias(samples)
        self.penalties = self._penalties(rows, dummy) if self.counted else None

    @property
    def changes_logits(self) -> bool:
        """Whether they are needed as float32."""
        return bool(
            self.grammars
            or self.worded
            or self.waiting
            or self.counted
            or self.bias is not None
            or self.allowed is not None
            or self.never is not None
        )

    def not_yet(self, rows: Rows) -> torch.Tensor | None:
        """Flat indices [ids] of the tokens that would end rows before their min_tokens; None: there are none."""
        held = [n for n in self.waiting if _num_output(rows[n]) < rows[n].sequence.request.sampling.min_tokens]
        if held != self._waiting[0]:
            ends = [(n, i) for n in held for i in _end_ids(rows[n].sequence.request.sampling)]
            self._waiting = held, self._indices(ends)
        return self._waiting[1]

    def ends_of_words(self, rows: Rows) -> torch.Tensor | None:
        """Flat indices [ids] of what would complete a bad word, in rows with words of several tokens. All tokens of
        these rows are known by now. None: there are none."""
        return self._indices([(n, token) for n in self.worded for token in bad_word_ends(_sampling_row(rows[n]))])

    def _indices(self, places: list[tuple[int, int]]) -> torch.Tensor | None:
        """Flat, of (row, token), none of which counts twice; tokens outside the vocabulary are passed over."""
        flat = {number * self._width + token for number, token in places if 0 <= token < self._vocab}
        return to_device(list(flat), torch.int64, self._device) if flat else None

    def _allowed(self, samples: list[tuple[int, SamplingParams]]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The arguments of `engine.kernels.processors.apply_masks`, of rows that allow some tokens only."""
        found = [(number, params.allowed_token_ids) for number, params in samples if params.allowed_token_ids]
        if not found:
            return None
        bits = np.zeros((len(found), -(-self._vocab // 32) * 32), dtype=np.uint8)
        for row, (_, ids) in zip(bits, found, strict=True):
            row[[i for i in ids if 0 <= i < self._vocab]] = 1
        words = np.packbits(bits, axis=1, bitorder="little").view("<i4")
        numbers = to_device([number for number, _ in found], torch.int32, self._device)
        return numbers, to_device(words, torch.int32, self._device)

    def _filters(self, samples: list[tuple[int, SamplingParams]]) -> Filters | None:
        found = [(number, params) for number, params in samples if filtering(params) and not params.greedy]
        if not found:
            return None
        whole = [[number for number, _ in found], [max(params.top_k, 0) for _, params in found]]
        parts = [[getattr(params, name) for _, params in found] for name in ("top_p", "min_p", "temperature")]
        return Filters(*_columns(whole, torch.int32, self._device), *_columns(parts, torch.float32, self._device))

    def _bias(self, samples: list[tuple[int, SamplingParams]]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(flat indices [ids] int64, what is added there [ids] float32)"""
        found = [
            (number * self._width + token, bias)
            for number, params in samples
            for token, bias in params.logit_bias.items()
            if 0 <= token < self._vocab
        ]
        if not found:
            return None
        flat, values = zip(*found, strict=True)
        return to_device(flat, torch.int64, self._device), to_device(values, torch.float32, self._device)

    def _penalties(self, rows: Rows, dummy: int) -> Penalties:
        slots = [dummy] * len(rows)
        factors = [[1.0] * len(rows), [0.0] * len(rows), [0.0] * len(rows)]
        for number in self.counted:
            sequence = rows[number].sequence
            params, slots[number] = sequence.request.sampling, sequence.slot
            asked = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
            for column, value in zip(factors, asked, strict=True):
                column[number] = value
        columns = _columns(factors, torch.float32, self._device)
        return Penalties(to_device(slots, torch.int32, self._device), *columns)


def _sampling_row(row: ScheduledRow) -> SamplingRow:
    sequence = row.sequence
    return SamplingRow(sequence.request.sampling, sequence.token_ids[: row.start + row.count], sequence.num_prompt)


def _columns(values: list[list[Any]], dtype: torch.dtype, device: torch.device) -> Iterator[torch.Tensor]:
    """Each list as a tensor whose address is a multiple of 16: kernels are compiled anew for others."""
    count = len(values[0])
    padded = [column + [0] * (-count % 4) for column in values]
    return (column[:count] for column in to_device(padded, dtype, device))


def _end_ids(params: SamplingParams) -> tuple[int, ...]:
    return (*params.eos_token_ids, *params.stop_token_ids)


def _num_output(row: ScheduledRow) -> int:
    """Tokens sampled before this step, that in flight among them."""
    return row.start + row.count - row.sequence.num_prompt
