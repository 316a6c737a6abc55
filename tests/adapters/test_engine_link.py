"""One front's link where other fronts share the engine: it holds them up no longer than its suspects live."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.admission import OwnCounts
from adapters.backend_options import BackendLimits
from adapters.engine_link import LOOK_AGAIN_S, EngineLink
from adapters.mailbox import EngineGeneration
from adapters.output_assembler import OutputPlan
from adapters.trial_turns import TrialTurns
from engine.process.messages import EngineInfo, Welcome, started_path
from engine.request import EngineRequest
from engine.sampling_params import SamplingParams
from engine.text.tokenizer import load_tokenizer
from tests.support.fault_checkpoint import write_fault_checkpoint

INFO = EngineInfo("a", 260, 999, 8, 99, 16, 99, 0, 0, "none", "x", "x", "x", "x", 0.0, 0)


class Client:
    """What the link takes for its connection."""

    def __init__(self) -> None:
        self.submitted: list[str] = []

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self.submitted += [request.request_id for request in requests]

    def cancel(self, request_ids: Sequence[str], lengths: Sequence[int] = ()) -> None: ...


class Front:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.link = EngineLink(str(run_dir), lambda: None, counts=OwnCounts(), turns=TrialTurns(str(run_dir)))
        self.client = Client()
        self.link.client = self.client  # type: ignore[assignment]
        self.tokenizer = load_tokenizer(write_fault_checkpoint(run_dir / "model"))

    def ask(self, name: str) -> EngineGeneration:
        generation = EngineGeneration(
            name,
            OutputPlan(tokenizer=self.tokenizer),
            [EngineRequest(f"{name}-0", (104, 105), SamplingParams(max_tokens=9))],
            "hi",
            stream=True,
            limits=BackendLimits(),
            release=self.link.release,
        )
        self.link.submit(generation.choices)
        return generation

    def die(self, epoch: int, *ran: str) -> None:
        """The engine of this epoch comes up, begins some requests, and dies of them."""
        self.link.on_welcome(Welcome(epoch, INFO))
        Path(started_path(str(self.run_dir), epoch)).write_text("\n".join(f"{name}-0" for name in ran))
        self.link.on_lost()


@pytest.mark.parametrize(
    "waited", [False, True], ids=["while no engine is there", "while another front has its turn"]
)
async def test_suspects_that_leave_before_their_trial_hold_no_other_front_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited: bool
) -> None:
    front = Front(tmp_path)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    other = TrialTurns(str(tmp_path))
    suspects = [front.ask("a"), front.ask("b")]
    front.die(1, "a", "b")
    front.die(2, "a", "b")
    assert other.others_wait()
    if waited:
        assert other.take()
        front.link.on_welcome(Welcome(3, INFO))
    for generation in suspects:
        generation.cancel()
    bystander = front.ask("c")
    if waited:
        other.done()
    else:
        front.link.on_welcome(Welcome(3, INFO))
    await asyncio.sleep(3 * LOOK_AGAIN_S)
    assert not other.others_wait()
    assert front.client.submitted[-1] == "c-0"
    bystander.cancel()
    assert len(front.link) == 0
