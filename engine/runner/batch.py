"""One step's work, in plain Python: what the scheduler hands to a runner and gets back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from engine.request import EngineRequest, Sequence, TokenLogprobs

NOT_A_NUMBER = "the model's output for this request was not a number"
NOTHING_ALLOWED = "no token is allowed at this position"
UNKNOWN_ID = "the prompt holds a token id that the model does not know"
"""Why rows fail (`StepResult.failed`); any other reason is the grammar's own."""


class ScheduledRow(msgspec.Struct, frozen=True, gc=False):
    """`count` tokens of one sequence, at positions start .. start + count - 1."""

    sequence: Sequence
    start: int
    count: int
    samples: bool
    """Whether the last of these positions is the last token so far, so that a next token is sampled."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Everything one forward pass computes. Decode rows (count 1, samples) come before prefill chunks.

    Invariants: a sequence appears at most once; its block_table covers start + count tokens; where the last
    token is still in flight (sequence.num_in_flight was 1 before this step) the runner takes it from its own
    last-token buffer at sequence.slot, else from sequence.token_ids.
    """

    rows: tuple[ScheduledRow, ...]
    num_decode_rows: int

    @property
    def num_tokens(self) -> int:
        return sum(row.count for row in self.rows)


class SampledToken(msgspec.Struct, frozen=True, gc=False):
    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Parallel to the batch's rows: None for rows that do not sample."""

    sampled: tuple[SampledToken | None, ...]
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    """By request id: one entry for each position of this step's chunk that has a next prompt token."""
    failed: dict[str, str] = field(default_factory=dict)
    """By request id: rows whose logits were unusable (NaN) or whose grammar broke; message fit for a client."""


class PendingStep(Protocol):
    """A launched step. On CPU it is finished already; on CUDA `result` waits for the copy of the ids."""

    def finish_launch(self) -> None:
        """Queue the sampling that needs to know the tokens of the step before: called once, when the results of that
        step are applied and before anything else is launched. Sequences may have ended by then. Only pipelined
        runners are asked."""
        ...

    def result(self) -> StepResult: ...


@dataclass(frozen=True, slots=True)
class StepSizes:
    """Numbers of tokens that suit a device."""

    free: int
    """Up to there a step takes little longer than with one token: reading the weights takes as long."""
    busy: int
    """From there on larger steps take longer without being more efficient."""


Report = Callable[[str, float, str], None]
"""Where loading stands: (phase, fraction 0..1 of it, detail)."""


class ModelRunner(Protocol):
    """Runs steps on one device. Knows tensors, no policy."""

    pipelined: bool
    """True: a step is launched before the previous one's result is read (one-step-late results)."""
    block_size: int
    num_blocks: int
    """Usable blocks are 1 .. num_blocks - 1; block 0 is the dummy that padding writes to."""
    max_model_len: int
    step_sizes: StepSizes | None
    """None: as many tokens as the configuration allows."""

    def launch(self, batch: StepBatch) -> PendingStep:
        """Queue one step on the device. Reads the sequences and their block tables only until it returns.

        Steps take effect in the order of their launches, so blocks and slots may be given to other requests
        as soon as the step that used them last was launched.
        """
        ...

    def forget(self, slot: int) -> None:
        """The slot's request is finished, aborted or preempted; the slot may be given to another one.

        A launched step may still hold a row of that request; nobody looks at that row's result. A preempted
        request comes back in another slot with its output so far in `sequence.token_ids`.
        """
        ...

    def prepare(self, request: EngineRequest) -> Future[Any] | None:
        """Begin, in a thread, what its first step would have to wait for; None: there is nothing. The result is kept
        with the sequence, for whatever it is good for."""
        ...

    def settle(self) -> None:
        """Nobody has asked for anything for seconds: begin, in a thread, what is large and may be needed some day."""
        ...

    def prepare_more(self) -> bool:
        """Use an idle moment for one thing that makes later steps faster; False when nothing is left to do."""
        ...

    def warm_up(self) -> None:
        """Compile and capture what the first requests need."""
        ...

    def close(self) -> None: ...
