"""A runner without a model, for measuring everything around one: every token is there at once."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import EngineConfig
from engine.models.config import load_model_config
from engine.process.messages import EngineInfo
from engine.request import EngineRequest
from engine.runner.batch import Report, SampledToken, StepBatch, StepResult, StepSizes

FIRST_ID, NUM_IDS = 300, 1000
"""Ordinary tokens of any Qwen vocabulary."""


@dataclass(frozen=True, slots=True)
class DoneStep:
    outcome: StepResult

    def finish_launch(self) -> None:
        """Nothing is left to do."""

    def result(self) -> StepResult:
        return self.outcome


class InstantRunner:
    """Answers the rows of a step with one token, the next step's with another."""

    pipelined = True
    step_sizes: StepSizes | None = None
    block_size = 64
    num_blocks = 200_000
    max_model_len = 1 << 20

    def __init__(self) -> None:
        self._steps = 0

    def launch(self, batch: StepBatch) -> DoneStep:
        self._steps += 1
        token = SampledToken(FIRST_ID + self._steps % NUM_IDS)
        return DoneStep(StepResult(tuple([token if row.samples else None for row in batch.rows])))

    def forget(self, slot: int) -> None:
        pass

    def prepare(self, request: EngineRequest) -> None:
        """Nothing has to be prepared."""

    def settle(self) -> None:
        """Nor later."""

    def prepare_more(self) -> bool:
        return False

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


def build(config: EngineConfig, report: Report) -> tuple[InstantRunner, EngineInfo]:
    """For the engine's process, in the place of `engine.runner.factory.build_runner`."""
    model = load_model_config(config.model_path)
    info = EngineInfo(
        architecture="instant",
        vocab_size=model.vocab_size,
        max_model_len=InstantRunner.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or 8192,
        block_size=InstantRunner.block_size,
        num_blocks=InstantRunner.num_blocks,
        kv_cache_bytes=0,
        weights_bytes=0,
        device="none",
        dtype="none",
        attention_backend="none",
        attention_reason="",
        policy="",
        load_s=0.0,
        pid=0,
    )
    return InstantRunner(), info
