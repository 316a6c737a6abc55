"""A model runner without a model, whose every token is computable and which distrusts the scheduler.

The next token is a hash of (seed, all tokens so far). Each cell of a simulated KV block holds salt, position and
token in one integer; before a row samples, every cell of its context is compared with what that sequence must see, so
sharing, reuse, publication and accounting bugs show in the step that makes them.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.request import EngineRequest, Phase, Sequence, TokenLogprobs
from engine.runner.batch import PendingStep, SampledToken, ScheduledRow, StepBatch, StepResult, StepSizes

VOCAB = 29
EMPTY_CELL = -1
_TOKEN_BITS, _POSITION_BITS = 8, 16


class InvariantError(AssertionError):
    """The scheduler broke a promise of `engine.runner.batch`."""


def next_token(seed: int, context: Iterable[int]) -> int:
    return zlib.crc32(array("i", context).tobytes(), seed & 0xFFFFFFFF) % VOCAB


def expected_stream(request: EngineRequest, max_model_len: int) -> tuple[list[int], str]:
    """All tokens a request must produce and how it must end; the slow, obvious reference of the engine's loop."""
    sampling = request.sampling
    tokens, output = list(request.prompt_token_ids), list[int]()
    while len(output) < sampling.max_tokens and len(tokens) < max_model_len:
        token = next_token(sampling.seed or 0, tokens)
        if token in (*sampling.eos_token_ids, *sampling.stop_token_ids) and len(output) < sampling.min_tokens:
            token = VOCAB  # a sampler masks stop ids here
        tokens.append(token)
        output.append(token)
        if token in sampling.eos_token_ids or token in sampling.stop_token_ids:
            return output, "stop"
    return output, "length"


@dataclass
class ScriptedStep:
    runner: ScriptedRunner
    number: int
    outcome: StepResult | Exception
    batch: StepBatch

    def finish_launch(self) -> None:
        """Sampling: by now the host must know the tokens of those who need them."""
        require(self.runner.num_collected == self.number, "a step is sampled before the last one is known")
        if self.runner.fail_sampling is not None:
            error, self.runner.fail_sampling = self.runner.fail_sampling, None
            self.runner.num_collected += 1
            raise error
        for row in self.batch.rows:
            sequence = row.sequence
            if row.samples and sequence.request.needs_history and sequence.phase is Phase.RUNNING:
                known = len(sequence.token_ids) == row.start + row.count
                require(known, "a row that needs its history is sampled without it")

    def result(self) -> StepResult:
        if self.number != self.runner.num_collected:
            raise InvariantError("results are read out of order")
        self.runner.num_collected += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass
class ScriptedRunner:
    """One device in memory. Faults: set `fail_launch`, `fail_sampling`, `fail_result`, `fail_rows` before a step."""

    num_blocks: int = 64
    block_size: int = 4
    max_model_len: int = 64
    max_num_seqs: int = 8
    max_num_batched_tokens: int | None = None
    pipelined: bool = False
    step_sizes: StepSizes | None = None
    fail_launch: Exception | None = None
    fail_sampling: Exception | None = None
    fail_result: Exception | None = None
    fail_rows: set[str] = field(default_factory=set)
    num_launched: int = 0
    num_collected: int = 0
    batches: list[StepBatch] = field(default_factory=list)
    keep_batches: bool = False

    def __post_init__(self) -> None:
        self.cells = [[EMPTY_CELL] * self.block_size for _ in range(self.num_blocks)]
        self.last_token: dict[int, int] = {}
        self.slot_owner: dict[int, Sequence] = {}
        self._truth: dict[Sequence, list[int]] = {}
        self._expected_cells: dict[Sequence, list[int]] = {}
        self._salts: dict[str, int] = {}

    def launch(self, batch: StepBatch) -> PendingStep:
        require(bool(batch.rows), "an empty step was launched")
        require(self.num_launched - self.num_collected <= int(self.pipelined), "too many steps are in flight")
        if self.keep_batches:
            self.batches.append(batch)
        if self.fail_launch is not None:
            error, self.fail_launch = self.fail_launch, None
            raise error
        self._check_batch(batch)
        for row in batch.rows:
            self._write(row)
        sampled, logprobs = [], dict[str, list[TokenLogprobs]]()
        for row in batch.rows:
            sampled.append(self._sample(row) if row.samples else None)
            if row.sequence.request.sampling.prompt_logprobs is not None:
                logprobs[row.sequence.request_id] = _prompt_logprobs(row)
        failed = {row.sequence.request_id: "NaN" for row in batch.rows if row.sequence.request_id in self.fail_rows}
        outcome: StepResult | Exception = StepResult(tuple(sampled), logprobs, failed)
        if self.fail_result is not None:
            outcome, self.fail_result = self.fail_result, None
        self.num_launched += 1
        return ScriptedStep(self, self.num_launched - 1, outcome, batch)

    def prepare(self, request: EngineRequest) -> None:
        """Nothing has to be prepared."""

    def settle(self) -> None:
        """Nor later."""

    def prepare_more(self) -> bool:
        return False

    def forget(self, slot: int) -> None:
        self.slot_owner.pop(slot, None)
        self.last_token.pop(slot, None)

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _check_batch(self, batch: StepBatch) -> None:
        sequences = [row.sequence for row in batch.rows]
        require(len(set(sequences)) == len(sequences), "a sequence is in the batch twice")
        require(batch.num_tokens <= (self.max_num_batched_tokens or batch.num_tokens), "the budget is overrun")
        size, written = self.block_size, list[int]()
        for index, row in enumerate(batch.rows):
            is_decode = row.count == 1 and row.samples
            require(is_decode or index >= batch.num_decode_rows, "a prefill chunk stands among the decode rows")
            self._check_row(row)
            written += row.sequence.block_table[row.start // size : (row.start + row.count - 1) // size + 1]
        require(len(set(written)) == len(written), "a block has two writers")

    def _check_row(self, row: ScheduledRow) -> None:
        sequence, end = row.sequence, row.start + row.count
        owner = self.slot_owner.setdefault(sequence.slot, sequence)
        require(0 <= sequence.slot < self.max_num_seqs, "a slot is out of range")
        require(owner is sequence, "a slot has two owners")
        require(row.count > 0 and row.start == sequence.num_computed, "a chunk leaves a gap or goes back")
        require(row.samples == (end == sequence.num_tokens), "a row samples at the wrong place")
        require(end <= sequence.num_tokens <= self.max_model_len, "a row runs past its tokens or the context")
        may_produce = max(1, sequence.request.sampling.max_tokens)
        require(not row.samples or sequence.num_output < may_produce, "a row samples more than was asked for")
        table = sequence.block_table
        require(len(table) * self.block_size >= end, "the block table does not cover the row")
        require(len(set(table)) == len(table), "a block stands twice in one table")
        require(min(table) > 0 and max(table) < self.num_blocks, "the dummy or an unknown block is in a table")

    def _write(self, row: ScheduledRow) -> None:
        sequence = row.sequence
        truth = self._truth.get(sequence)
        if truth is None:
            truth = self._truth[sequence] = list(sequence.token_ids)
            self._expected_cells[sequence] = []
        known = len(sequence.token_ids)
        require(sequence.token_ids == truth[:known], "the host's tokens are not the ones that were sampled")
        require(sequence.num_in_flight == len(truth) - known, "the count of tokens in flight is wrong")
        if sequence.num_in_flight:
            require(self.last_token.get(sequence.slot) == truth[-1], "the device's last token is another one's")
        cells, size = self._cells_of(sequence, row.start + row.count), self.block_size
        for position in range(row.start, row.start + row.count):
            self.cells[sequence.block_table[position // size]][position % size] = cells[position]

    def _cells_of(self, sequence: Sequence, end: int) -> list[int]:
        """What the first `end` positions of a sequence must hold."""
        salt = self._salts.setdefault(sequence.request.cache_salt, len(self._salts)) << _POSITION_BITS
        cells, truth = self._expected_cells[sequence], self._truth[sequence]
        for position in range(len(cells), end):
            cells.append((salt | position) << _TOKEN_BITS | truth[position])
        return cells

    def _sample(self, row: ScheduledRow) -> SampledToken:
        sequence, end, size = row.sequence, row.start + row.count, self.block_size
        truth, expected = self._truth[sequence], self._cells_of(sequence, end)
        found = list[int]()
        for block in sequence.block_table[: -(-end // size)]:
            found += self.cells[block]
        if found[:end] != expected[:end]:
            raise InvariantError(f"{sequence.request_id} reads other tokens than its own: {found[:end]}")
        sampling = sequence.request.sampling
        token = next_token(sampling.seed or 0, truth)
        if token in sequence.stop_ids and sequence.num_output < sampling.min_tokens:
            token = VOCAB
        truth.append(token)
        self.last_token[sequence.slot] = token
        logprobs = TokenLogprobs(-float(token), 1) if sampling.logprobs is not None else None
        return SampledToken(token, logprobs)


def _prompt_logprobs(row: ScheduledRow) -> list[TokenLogprobs]:
    """One recognisable entry for each position of the chunk that has a next prompt token."""
    sequence = row.sequence
    last = min(row.start + row.count, sequence.num_prompt - 1)
    return [TokenLogprobs(-float(sequence.token_ids[p + 1]), p + 1) for p in range(row.start, last)]


def tokens_in(cells: list[int]) -> bytes:
    """The tokens of a block's cells, packed as the prefix cache packs them."""
    return array("i", [cell & (1 << _TOKEN_BITS) - 1 for cell in cells]).tobytes()


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InvariantError(message)
