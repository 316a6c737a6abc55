"""Drives a runner by hand: no scheduler, so that a test decides which rows run in which step."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.config import EngineConfig
from engine.request import EngineRequest, Sequence
from engine.runner.batch import ScheduledRow, StepBatch
from engine.runner.cpu_runner import CpuRunner
from engine.runner.factory import build_runner
from engine.sampling_params import SamplingParams


def silent(phase: str, fraction: float, detail: str) -> None:
    """A progress report nobody reads."""


def build_cpu_runner(folder: Path, **settings: object) -> CpuRunner:
    config = EngineConfig(str(folder), **{"device": "cpu", "num_threads": 1, "max_num_seqs": 8, **settings})  # type: ignore[arg-type]
    runner, _ = build_runner(config, silent)
    assert isinstance(runner, CpuRunner)
    return runner


class Driver:
    """Hands out blocks in a scrambled order and never takes them back."""

    def __init__(self, runner: CpuRunner, seed: int = 0) -> None:
        self.runner = runner
        order = torch.randperm(runner.num_blocks - 1, generator=torch.Generator().manual_seed(seed)) + 1
        self._free = order.tolist()
        self.recorded: list[torch.Tensor] = []
        """Logits [rows, vocab] of each step's sampling rows."""
        logits = runner._model.logits

        def record(hidden: torch.Tensor) -> torch.Tensor:
            self.recorded.append(logits(hidden).clone())
            return self.recorded[-1].clone()

        runner._model.logits = record  # type: ignore[method-assign]

    def sequence(self, token_ids: list[int], name: str = "r", sampling: SamplingParams | None = None) -> Sequence:
        sampling = sampling or SamplingParams(temperature=0.0)
        request = EngineRequest(name, tuple(token_ids), sampling=sampling)
        return Sequence(request, list(token_ids), len(token_ids))

    def step(self, *work: tuple[Sequence, int]) -> list[int | None]:
        """Compute `count` more tokens of each sequence; appends what is sampled. Decode rows must come first."""
        rows = []
        for sequence, count in work:
            end = sequence.num_computed + count
            while len(sequence.block_table) * self.runner.block_size < end:
                sequence.block_table.append(self._free.pop())
            rows.append(ScheduledRow(sequence, sequence.num_computed, count, end == len(sequence.token_ids)))
        decode = sum(row.count == 1 and row.samples for row in rows)
        result = self.runner.launch(StepBatch(tuple(rows), decode)).result()
        assert result.failed == {}
        tokens: list[int | None] = []
        for row, sampled in zip(rows, result.sampled, strict=True):
            row.sequence.num_computed += row.count
            if sampled is not None:
                row.sequence.token_ids.append(sampled.token_id)
            tokens.append(None if sampled is None else sampled.token_id)
        return tokens

    def generate(self, sequence: Sequence, count: int) -> list[int]:
        """Prefill in one step, then decode alone."""
        tokens = []
        for _ in range(count):
            (token,) = self.step((sequence, len(sequence.token_ids) - sequence.num_computed))
            assert token is not None
            tokens.append(token)
        return tokens
