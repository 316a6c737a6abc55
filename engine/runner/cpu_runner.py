"""Runs steps on CPU: one ragged forward pass, logits only where they are read, tokens at once."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import RequestError
from engine.models.decoder import Model
from engine.models.rope import Rotary
from engine.request import EngineRequest, Sequence, TokenLogprobs
from engine.runner.batch import UNKNOWN_ID, PendingStep, SampledToken, ScheduledRow, StepBatch, StepResult
from engine.runner.step_inputs import StepInputs, build_inputs
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling.logprobs import raw_logprobs
from engine.sampling.row import SamplingRow
from engine.sampling.row_grammars import RowGrammars
from engine.sampling.sampler import Sampler
from engine.sampling_params import SamplingParams

WARM_UP = SamplingParams(temperature=0.0)
PROMPT_LOGPROB_ROWS = 32
"""Positions whose logits exist at once while prompt logprobs are computed: the vocabulary is wide."""


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step that is done when `launch` returns."""

    outcome: StepResult

    def finish_launch(self) -> None:
        """Nothing is left to queue."""

    def result(self) -> StepResult:
        return self.outcome


class CpuRunner:
    """Keeps nothing per request but its grammar's state: all else lies in the sequences and the KV cache."""

    pipelined = False
    step_sizes = None

    def __init__(
        self,
        model: Model,
        rotary: Rotary,
        sampler: Sampler,
        kv_cache: torch.Tensor,
        max_model_len: int,
        vocab_size: int,
        compiler: DeferredCompiler,
    ) -> None:
        """`kv_cache` is [2, layers, blocks, block_size, kv_heads, head_dim]; `vocab_size` counts the embedding."""
        self._model = model
        self._rotary = rotary
        self._sampler = sampler
        self._kv_cache = kv_cache
        self.num_blocks: int = kv_cache.shape[2]
        self.block_size: int = kv_cache.shape[3]
        self.max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._compiler = compiler
        self._grammars = RowGrammars(compiler)

    def launch(self, batch: StepBatch) -> PendingStep:
        with torch.inference_mode():
            inputs = build_inputs(batch, self.block_size, self._vocab_size)
            rows = [(row.count, row.sequence.num_prompt) for row in batch.rows]
            rotary = self._rotary.step(inputs.metadata.positions, rows)
            wanted = wanted_tokens(batch, inputs)
            hidden = self._model.forward(
                inputs.token_ids, rotary, inputs.metadata, self._kv_cache, torch.tensor(wanted, dtype=torch.int64)
            )
            return FinishedStep(self._finish(batch, inputs, hidden, {t: place for place, t in enumerate(wanted)}))

    def _finish(
        self, batch: StepBatch, inputs: StepInputs, hidden: torch.Tensor, places: dict[int, int]
    ) -> StepResult:
        """`hidden` has the wanted tokens only; `places` tells where each of them is in it."""
        sampled: list[SampledToken | None] = [None] * len(batch.rows)
        failed = {batch.rows[number].sequence.request_id: UNKNOWN_ID for number in inputs.broken}
        numbers = [number for number, row in enumerate(batch.rows) if row.samples]
        if numbers:
            last = [places[inputs.last_tokens[number]] for number in numbers]
            logits = self._model.logits(hidden if len(last) == len(hidden) else hidden[last])
            rows = [self._sampling_row(batch.rows[number].sequence, failed) for number in numbers]
            output = self._sampler.sample(logits, rows)
            for place, number in enumerate(numbers):
                request_id = batch.rows[number].sequence.request_id
                if place in output.failed:
                    failed.setdefault(request_id, output.failed[place])
                sampled[number] = output.tokens[place] if request_id not in failed else None
        prompt_logprobs = {
            row.sequence.request_id: self._prompt_logprobs(row, hidden[places[last + 1 - row.count] :])
            for number, (row, last) in enumerate(zip(batch.rows, inputs.last_tokens, strict=True))
            if reports_prompt(row) and number not in inputs.broken
        }
        return StepResult(tuple(sampled), prompt_logprobs, failed)

    def _sampling_row(self, sequence: Sequence, failed: dict[str, str]) -> SamplingRow:
        mask = None
        if sequence.request.grammar is not None:
            try:
                mask = self._grammars.mask(sequence)
            except RequestError as error:
                failed[sequence.request_id] = str(error)
        return SamplingRow(sequence.request.sampling, sequence.token_ids, sequence.num_prompt, mask)

    def _prompt_logprobs(self, row: ScheduledRow, hidden: torch.Tensor) -> list[TokenLogprobs]:
        """Logprobs of prompt tokens start + 1 .. start + count, as far as they belong to the prompt.

        `hidden` begins with the row's first token.
        """
        sequence = row.sequence
        following = sequence.token_ids[row.start + 1 : min(row.start + row.count + 1, sequence.num_prompt)]
        top = sequence.request.sampling.prompt_logprobs or 0
        entries: list[TokenLogprobs] = []
        for first in range(0, len(following), PROMPT_LOGPROB_ROWS):
            tokens = following[first : first + PROMPT_LOGPROB_ROWS]
            logits = self._model.logits(hidden[first : first + len(tokens)])
            entries += raw_logprobs(logits, tokens, [top] * len(tokens))
        return entries

    def forget(self, slot: int) -> None:
        self._grammars.forget(slot)

    def prepare(self, request: EngineRequest) -> Future[Any] | None:
        """Its grammar, if it has one."""
        return self._compiler.begin(request.grammar) if request.grammar else None

    def prepare_more(self) -> bool:
        """Nothing is left to prepare after `warm_up`."""
        return False

    def settle(self) -> None:
        """What the first grammar will need."""
        self._compiler.warm()

    def warm_up(self) -> None:
        """One decode step and one chunk on the dummy block, so that threads and buffers are there."""
        blocks = [0] * -(-64 // self.block_size)
        for count in (1, min(64, self.max_model_len)):
            request = EngineRequest("warm-up", tuple([0] * count), sampling=WARM_UP)
            sequence = Sequence(request, [0] * count, count, block_table=blocks)
            self.launch(StepBatch((ScheduledRow(sequence, 0, count, True),), num_decode_rows=int(count == 1)))

    def close(self) -> None:
        """Memory goes with the object."""
        self._compiler.close()


def reports_prompt(row: ScheduledRow) -> bool:
    """Whether any of the row's positions has a next prompt token whose logprob was asked for and not sent yet."""
    sequence = row.sequence
    wanted = sequence.request.sampling.prompt_logprobs is not None and not sequence.started
    return wanted and row.start + 1 < sequence.num_prompt


def wanted_tokens(batch: StepBatch, inputs: StepInputs) -> list[int]:
    """Numbers of the tokens whose hidden states are read, ascending: the fewer, the less the last layer computes."""
    wanted: list[int] = []
    for row, last in zip(batch.rows, inputs.last_tokens, strict=True):
        if reports_prompt(row):
            wanted += range(last + 1 - row.count, last + 1)
        elif row.samples:
            wanted.append(last)
    return wanted
