"""How sampled ids come back from the device: copies on their way, and what they mean once they are here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from engine.kernels.sampling import BROKEN
from engine.request import TokenLogprobs
from engine.runner.batch import NOT_A_NUMBER, NOTHING_ALLOWED, UNKNOWN_ID, SampledToken, ScheduledRow, StepResult
from engine.runner.cuda_buffers import new_event
from engine.runner.cuda_special import SpecialResult

_TOKENS: dict[int, SampledToken] = {}
"""One object for each token id met: results of plain rows are made of lookups."""


class ResultRing:
    """Page-locked copies of sampled ids, in rotation."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._buffers = [torch.zeros(rows, dtype=torch.int32, pin_memory=self._cuda) for _ in range(4)]
        self._next = 0

    def copy(self, sampled: torch.Tensor) -> tuple[np.ndarray, torch.cuda.Event | None]:
        """`sampled` [rows] on the host: valid once the event (None: at once) has passed, for three more copies."""
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        buffer[: len(sampled)].copy_(sampled, non_blocking=True)
        event = new_event() if self._cuda else None
        if event is not None:
            event.record()
        return buffer.numpy()[: len(sampled)], event


class LaunchedStep:
    """A step whose ids are on their way to the host."""

    __slots__ = ("_event", "_gap", "_ids", "_rows", "_special", "_unknown")

    def __init__(
        self,
        rows: tuple[ScheduledRow, ...],
        ids: np.ndarray,
        event: torch.cuda.Event | None,
        special: SpecialResult | None,
        unknown: list[str],
        gap: tuple[int, int],
    ) -> None:
        """`unknown`: requests whose prompts hold ids that the model does not have; `gap`: padding among the ids."""
        self._rows, self._ids, self._event, self._special, self._unknown = rows, ids, event, special, unknown
        self._gap = gap

    def finish_launch(self) -> None:
        """Nothing is left to queue."""

    def result(self) -> StepResult:
        if self._event is not None:
            self._event.synchronize()
        first, last = self._gap
        ids = self._ids.tolist()
        ids = (ids[:first] + ids[last:])[: len(self._rows)]
        sampled: list[SampledToken | None] = []
        failed: dict[str, str] = {}
        for row, token in zip(self._rows, ids, strict=True):
            if not row.samples:
                sampled.append(None)
            elif token >= 0:
                known = _TOKENS.get(token)
                if known is None:
                    known = _TOKENS[token] = SampledToken(token)
                sampled.append(known)
            else:
                sampled.append(None)
                failed[row.sequence.request_id] = failure(token)
        prompt_logprobs: dict[str, list[TokenLogprobs]] = {}
        if self._special is not None:
            sampled = self._special.with_logprobs(sampled)
            prompt_logprobs = self._special.prompt_logprobs()
            failed.update(self._special.failed)
        if self._unknown:
            self._fail_unknown(sampled, prompt_logprobs, failed)
        return StepResult(tuple(sampled), prompt_logprobs, failed)

    def _fail_unknown(
        self,
        sampled: list[SampledToken | None],
        prompt_logprobs: dict[str, list[TokenLogprobs]],
        failed: dict[str, str],
    ) -> None:
        for number, row in enumerate(self._rows):
            name = row.sequence.request_id
            if name in self._unknown:
                sampled[number] = None
                prompt_logprobs.pop(name, None)
                failed[name] = UNKNOWN_ID


class WaitingStep:
    """A step whose forward pass is queued, while its sampling waits for the tokens of the step before."""

    __slots__ = ("_sample", "_step")

    def __init__(self, sample: Callable[[], LaunchedStep]) -> None:
        self._sample = sample
        self._step: LaunchedStep | None = None

    def finish_launch(self) -> None:
        with torch.inference_mode():
            self._step = self._sample()

    def result(self) -> StepResult:
        if self._step is None:
            raise RuntimeError("a step's result is asked for before its launch was finished")
        return self._step.result()


def failure(token: int) -> str:
    """What the sampler's marks mean."""
    return NOT_A_NUMBER if token == BROKEN else NOTHING_ALLOWED
