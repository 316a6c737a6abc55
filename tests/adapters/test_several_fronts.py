"""Random lives of several fronts over one engine: deaths, suspects, leavers at any moment; nobody waits for ever.

As tests/simulation/test_resumption.py, whose engine it takes, with the turns at trials that fronts share.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters import engine_link
from adapters.admission import OwnCounts
from adapters.backend_options import BackendLimits
from adapters.engine_link import EngineLink
from adapters.mailbox import EngineGeneration
from adapters.output_assembler import OutputPlan
from adapters.trial_turns import TrialTurns
from engine.errors import RequestFailedError
from engine.process.messages import StepOutputs, Welcome
from engine.request import EngineRequest
from engine.sampling_params import SamplingParams
from engine.text.tokenizer import Tokenizer, load_tokenizer
from tests.simulation.test_resumption import INFO, POISON, VENOM, Engine
from tests.support.fault_checkpoint import write_fault_checkpoint
from tests.support.fault_runner import expected_text

MAX_TURNS = 4000


class Front:
    """A link, and what it takes for its client."""

    def __init__(self, world: World, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.prefix = world, f"{number}-"
        self.epoch = 0
        """Of the engine that it knows of."""
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1000 + number)
            turns = TrialTurns(str(world.run_dir))
        self.counts = OwnCounts()
        self.link = EngineLink(str(world.run_dir), lambda: None, counts=self.counts, turns=turns)
        self.link.client = self  # type: ignore[assignment]

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        if self.world.engine is not None and self.epoch == self.world.engine.epoch:
            self.world.engine.submit(requests)

    def cancel(self, request_ids: Sequence[str], lengths: Sequence[int] = ()) -> None:
        if self.world.engine is not None:
            self.world.engine.cancel(request_ids)


class World:
    def __init__(self, seed: int, tokenizer: Tokenizer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.tokenizer, self.run_dir = tokenizer, run_dir
        self.engine: Engine | None = None
        self.epoch = 0
        self.fronts = [Front(self, number, monkeypatch) for number in range(self.rng.choice((2, 3)))]
        self.unwelcomed: list[Front] = []

    def arrive(self, number: int) -> asyncio.Task[None]:
        rng = self.rng
        front = rng.choice(self.fronts)
        prompt = f"{rng.choices((POISON, VENOM, 'p'), (20, 2, 78))[0]} {number}"
        sampling = SamplingParams(max_tokens=12, seed=number)
        generation = EngineGeneration(
            prompt,
            OutputPlan(tokenizer=self.tokenizer),
            [EngineRequest(f"{front.prefix}{number}.0", tuple(prompt.encode()), sampling)],
            prompt,
            stream=True,
            limits=BackendLimits(),
            release=front.link.release,
        )
        front.counts.add(1)
        front.link.submit(generation.choices)
        return asyncio.create_task(self.consume(prompt, number, generation, rng.random() < 0.6))

    async def consume(self, prompt: str, number: int, generation: EngineGeneration, leaves: bool) -> None:
        leaver = asyncio.create_task(self.leave(generation, self.rng.randrange(200))) if leaves else None
        text, whole = "", expected_text(prompt, number, 12)
        try:
            async for deltas in generation:
                text += "".join(delta.content for delta in deltas)
            assert text == whole or (leaves and whole.startswith(text)), prompt
        except RequestFailedError:
            assert prompt.startswith((POISON, VENOM)), f"{prompt!r} was refused"
        finally:
            if leaver is not None:
                leaver.cancel()

    async def leave(self, generation: EngineGeneration, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        generation.cancel()

    def turn(self, accidents: bool) -> None:
        """One event of the engine's side."""
        rng = self.rng
        if self.engine is None:
            if rng.random() < 0.08:
                self.epoch += 1
                self.engine = Engine(rng, self.epoch, self.run_dir)
                self.unwelcomed = rng.sample(self.fronts, len(self.fronts))
            return
        if self.unwelcomed and rng.random() < 0.7:
            front = self.unwelcomed.pop()
            front.epoch = self.epoch
            front.link.on_welcome(Welcome(self.epoch, INFO))
        outputs = self.engine.step()
        if outputs is None or (accidents and not outputs.started and rng.random() < 0.02):
            self.engine, self.unwelcomed = None, []
            for front in self.fronts:
                if front.epoch == self.epoch:
                    front.link.on_lost()
            return
        for front in self.fronts:
            own = tuple(output for output in outputs.outputs if output.request_id.startswith(front.prefix))
            started = tuple(name for name in outputs.started if name.startswith(front.prefix))
            front.link.on_outputs(StepOutputs(self.epoch, own, started))

    async def run(self) -> None:
        arriving = list(range(self.rng.randint(1, 24)))
        tasks: list[asyncio.Task[None]] = []
        for _ in range(MAX_TURNS):
            if arriving and self.rng.random() < 0.3:
                tasks.append(self.arrive(arriving.pop()))
            self.turn(accidents=bool(arriving))
            await asyncio.sleep(0)
            if not arriving and all(task.done() for task in tasks):
                break
        waiting = sum(not task.done() for task in tasks)
        for task in tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=bool(waiting))
        assert waiting == 0, f"seed {self.seed}: {waiting} requests wait for ever"
        for front in self.fronts:
            counted = (len(front.link), front.counts.sequences, front.counts.waiting_tokens)
            assert counted == (0, 0, 0), f"seed {self.seed}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_fault_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    "first", [pytest.param(first, marks=pytest.mark.slow) for first in range(150, 3000, 150)] + [0]
)
async def test_every_request_of_every_front_ends(
    first: int, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_link, "LOOK_AGAIN_S", 0.0)
    for seed in range(first, first + 150):
        run_dir = tmp_path / str(seed)
        run_dir.mkdir()
        await World(seed, tokenizer, run_dir, monkeypatch).run()
