"""Random lives of a front over random engines: deaths at any moment, lost and late messages, leavers, slow readers.

The real link, mailboxes and recovery; the engine is ten lines whose tokens are computable. One seed, one history.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.admission import OwnCounts
from adapters.backend_options import BackendLimits
from adapters.engine_link import EngineLink
from adapters.mailbox import EngineGeneration
from adapters.output_assembler import OutputPlan
from engine.errors import EngineError, RequestFailedError
from engine.process.messages import EngineInfo, StepOutputs, Welcome, started_path
from engine.request import EngineRequest, RequestOutput
from engine.sampling_params import SamplingParams
from engine.text.tokenizer import Tokenizer, load_tokenizer
from tests.simulation.sweep import chunks_of, failures_of, progress_from_environment, seeds_from_environment, sweep
from tests.support.fault_checkpoint import write_fault_checkpoint
from tests.support.fault_runner import expected_text, next_token

INFO = EngineInfo("a", 260, 999, 8, 99, 16, 99, 0, 0, "none", "x", "x", "x", "x", 0.0, 0)
SLOW_SEEDS = range(1000, 61_000)
SLOW_CHUNKS = 4
POISON = "poison"
"""It kills as soon as it runs; VENOM after two tokens of each of its lives."""
VENOM = "venom"


class Engine:
    """What the front believes to be a process. `slots` requests run at a time, in the order of their arrival."""

    def __init__(self, rng: random.Random, epoch: int, run_dir: Path) -> None:
        self.rng = rng
        self.epoch = epoch
        self.slots = rng.choice((2, 8, 64))
        self.live: dict[str, tuple[EngineRequest, list[int]]] = {}
        self.started: dict[str, None] = {}
        self.path = Path(started_path(str(run_dir), epoch))

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        for request in requests:
            assert request.request_id not in self.live, "submitted twice"
            self.live[request.request_id] = (request, [*request.prompt_token_ids, *request.resumed_token_ids])

    def cancel(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self.live.pop(request_id, None)

    def step(self) -> StepOutputs | None:
        """One token for everyone that runs; None when a poisoned request kills the process."""
        running = list(self.live.items())[: self.slots]
        fresh = tuple(request_id for request_id, _ in running if request_id not in self.started)
        self.started |= dict.fromkeys(fresh)
        if fresh:
            self.path.write_text("\n".join(self.started))
        outputs: list[RequestOutput] = []
        for request_id, (request, tokens) in running:
            prompt = bytes(request.prompt_token_ids).decode()
            known = len(request.prompt_token_ids) + len(request.resumed_token_ids)
            if prompt.startswith(POISON) or (prompt.startswith(VENOM) and len(tokens) - known >= 2):
                return None
            tokens.append(next_token(request.sampling.seed, len(tokens), tokens[-1]))
            done = len(tokens) - len(request.prompt_token_ids) >= request.sampling.max_tokens
            if done:
                del self.live[request_id]
            outputs.append(RequestOutput(request_id, (tokens[-1],), "length" if done else None))
        return StepOutputs(self.epoch, tuple(outputs), fresh)


class World:
    def __init__(self, seed: int, tokenizer: Tokenizer, run_dir: Path) -> None:
        self.rng = random.Random(seed)
        self.tokenizer = tokenizer
        self.run_dir = run_dir
        self.counts = OwnCounts()
        self.link = EngineLink(str(run_dir), lambda: None, counts=self.counts)
        self.epoch = 0
        self.engine: Engine | None = None
        self.late: list[StepOutputs] = []
        self.link.client = self  # type: ignore[assignment]
        self.results: dict[str, tuple[str, str]] = {}
        """By prompt: the text that its consumer saw, and how it came to its end."""

    # what the link takes for its client

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        if self.engine is not None:
            self.engine.submit(requests)

    def cancel(self, request_ids: Sequence[str], lengths: Sequence[int] = ()) -> None:
        if self.engine is not None:
            self.engine.cancel(request_ids)

    # the outside

    def arrive(self, number: int) -> asyncio.Task[None]:
        rng = self.rng
        kind = rng.choices((POISON, VENOM, "p"), (6, 2, 92))[0]
        prompt = f"{kind} {number}"
        whole = expected_text(prompt, number, 12)
        stop = (whole[8:11],) if rng.random() < 0.3 else ()
        sampling = SamplingParams(max_tokens=12, seed=number)
        generation = EngineGeneration(
            prompt,
            OutputPlan(tokenizer=self.tokenizer, stop=stop),
            [EngineRequest(f"{number}.0", tuple(prompt.encode()), sampling)],
            prompt,
            stream=rng.random() < 0.7,
            limits=BackendLimits(),
            release=self.link.release,
        )
        self.counts.add(len(generation.choices))
        self.link.submit(generation.choices)
        return asyncio.create_task(self.consume(prompt, generation, rng.random() < 0.15))

    async def consume(self, prompt: str, generation: EngineGeneration, leaves: bool) -> None:
        text, ends = "", []
        try:
            async for deltas in generation:
                text += "".join(delta.content for delta in deltas)
                ends += [delta.finish_reason for delta in deltas if delta.finish_reason]
                for _ in range(self.rng.choice((0, 0, 1, 7))):
                    await asyncio.sleep(0)
                if leaves and not ends:
                    ends.append("left")
                    generation.cancel()
        except EngineError as error:
            assert isinstance(error, RequestFailedError)
            assert prompt in str(error)
            ends.append("refused")
        assert len(ends) == 1, f"{prompt!r} ended {ends}"
        self.results[prompt] = (text, str(ends[0]))

    def turn(self) -> None:
        """One event of the engine's side."""
        rng = self.rng
        if self.engine is None:
            if rng.random() < 0.3:
                self.epoch += 1
                self.engine = Engine(rng, self.epoch, self.run_dir)
                self.link.on_welcome(Welcome(self.epoch, INFO))
            return
        if rng.random() < 0.1 and self.late:
            self.link.on_outputs(self.late.pop())
        outputs = self.engine.step()
        accident = rng.random() < 0.03 and outputs is not None and not outputs.started  # never by accident twice
        if len(self.engine.live) <= 1 and self.link._recovery.waits_for_tokens:
            accident = False  # nobody could tell it from the guilt of the one on trial
        if outputs is None or accident:
            self.engine = None
            if outputs is not None and rng.random() < 0.5:  # it came through before the death, or it comes too late
                self.link.on_outputs(outputs)
            elif outputs is not None:
                self.late.append(outputs)
            self.link.on_lost()
        else:
            self.link.on_outputs(outputs)

    async def run(self) -> None:
        arriving = list(range(self.rng.randint(1, 24)))
        tasks: list[asyncio.Task[None]] = []
        for _ in range(3000):
            if arriving and self.rng.random() < 0.3:
                tasks.append(self.arrive(arriving.pop()))
            self.turn()
            await asyncio.sleep(0)
            if not arriving and all(task.done() for task in tasks):
                break
        await asyncio.wait_for(asyncio.gather(*tasks), 60)


async def live_through(seed: int, tokenizer: Tokenizer, run_dir: Path) -> None:
    world = World(seed, tokenizer, run_dir)
    await world.run()
    for prompt, (text, end) in world.results.items():
        number = int(prompt.split()[1])
        whole = expected_text(prompt, number, 12)
        assert whole.startswith(text), f"seed {seed}: {prompt!r} got {text!r}, not a prefix of {whole!r}"
        if end in ("stop", "length"):
            assert text == (whole[:8] if end == "stop" else whole), f"seed {seed}: {prompt!r} was cut at {text!r}"
        assert end != "refused" or prompt.startswith((POISON, VENOM)), f"seed {seed}: {prompt!r} was refused"
        assert end in ("refused", "left") or not prompt.startswith(POISON), f"seed {seed}: {prompt!r} {end}"
    assert len(world.link) == 0, f"seed {seed}"
    assert (world.counts.sequences, world.counts.waiting_tokens) == (0, 0), f"seed {seed}"
    assert world.engine is None or world.engine.live == {}, f"seed {seed}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_fault_checkpoint(tmp_path_factory.mktemp("model")))


async def test_random_histories(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for seed in range(200):
        await live_through(seed, tokenizer, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(SLOW_CHUNKS))
def test_many_random_histories(chunk: int) -> None:
    """RESUMPTION_SEEDS="first:end" runs others; SIMULATION_PROGRESS as in test_simulation."""
    seeds = chunks_of(seeds_from_environment(SLOW_SEEDS, "RESUMPTION_SEEDS"), SLOW_CHUNKS)[chunk]
    assert sweep(lives, seeds, progress_from_environment("lives")) == []


def lives(seeds: range) -> list[str]:
    """For a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = load_tokenizer(write_fault_checkpoint(folder / "model"))
        return failures_of(seeds, lambda seed: asyncio.run(live_through(seed, tokenizer, folder)))
