"""What the runner does with idle moments while kernels for shared prefixes are being compiled, and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from engine.runner.batch import ScheduledRow, StepBatch
from engine.runner.compile_ahead import AheadCompilation
from engine.runner.cuda_graphs import StepGraphs
from engine.runner.cuda_runner import CudaRunner
from tests.engine.kernels.test_cuda_runner import cuda_runner
from tests.support.tiny_checkpoints import build_checkpoint


class Compilers:
    """Stand for processes that compile."""

    def __init__(self) -> None:
        self.done = self.stopped = False

    def finished(self) -> bool:
        return self.done

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def compilers() -> Compilers:
    return Compilers()


@pytest.fixture
def runner(tmp_path: Path, compilers: Compilers) -> CudaRunner:
    build_checkpoint("qwen3", tmp_path)
    runner = cuda_runner(tmp_path, torch.device("cpu"))
    runner._ahead = cast(AheadCompilation, compilers)
    return runner


def test_graphs_wait_for_their_kernels(
    runner: CudaRunner, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[object] = []
    monkeypatch.setattr(StepGraphs, "capture", lambda graphs, shape: captured.append(shape))
    runner._later.append((runner._shared_sampling_graphs, 6))
    assert runner.prepare_more(), "there is something left to do"
    assert captured == []
    compilers.done = True
    assert runner.prepare_more()
    assert captured == [6]
    assert not runner.prepare_more()


def test_prefixes_are_read_row_by_row_meanwhile(
    runner: CudaRunner, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner._shared_prefix is not None
    monkeypatch.setattr(runner._shared_prefix, "tokens", lambda rows, count: 64)
    row = ScheduledRow(runner._dummy(70), 69, 1, True)
    step = StepBatch((row,), 1)
    assert not runner._shares(step)
    compilers.done = True
    assert runner._shares(step)


def test_compilers_end_with_the_runner(runner: CudaRunner, compilers: Compilers) -> None:
    runner.close()
    assert compilers.stopped
