"""Planning the next step late against planning it at once, in real time, on a device that only takes time.

    python -m benchmarks.step_pacing [--rounds 3]

The engine's own process, loop and scheduler with `timed_runner` in the place of a GPU, and the socket that a front
uses; no HTTP. Both variants run the same requests (128-512 tokens in, 256 out) in turn. Times are the client's: from
a request's arrival to the engine's message with its first token. Idle: the device had nothing to run between two
steps of one busy time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from engine.config import EngineConfig
from engine.process.client import EngineClient
from engine.process.messages import Heartbeat, Progress, StepOutputs, Welcome
from engine.process.supervisor import Supervisor
from engine.request import EngineRequest
from engine.sampling_params import SamplingParams

MODEL = Path(__file__).parent.parent / "oai_server" / "demo_model"
OUTPUT_TOKENS = 256
VARIANTS = ("build_eager", "build")
NAMES = {"build_eager": "at once", "build": "late"}


@dataclass
class Reply:
    arrival_s: float
    done: asyncio.Event = field(default_factory=asyncio.Event)
    first_s: float = 0.0
    tokens: int = 0


class Front:
    """An EngineListener that keeps times."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.replies: dict[str, Reply] = {}

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        pass

    def on_welcome(self, welcome: Welcome) -> None:
        self.ready.set()

    def on_lost(self) -> None:
        raise RuntimeError("the engine has died")

    def on_outputs(self, outputs: StepOutputs) -> None:
        now_s = time.monotonic()
        for output in outputs.outputs:
            reply = self.replies[output.request_id]
            reply.first_s = reply.first_s or now_s
            reply.tokens += len(output.token_ids)
            if output.finish_reason is not None:
                reply.done.set()


@dataclass(frozen=True, slots=True)
class Outcome:
    tokens_per_s: float
    ttft_ms: list[float]
    idle_share: float


class Load:
    """One engine with one front, measured under one load after another."""

    def __init__(self, client: EngineClient, front: Front, counts: Path) -> None:
        self._client, self._front, self._counts = client, front, counts

    async def closed(self, clients: int, requests_each: int, seed: int) -> Outcome:
        rng = random.Random(seed)

        async def one_client(number: int) -> None:
            for turn in range(requests_each):
                await self._request(rng, f"{seed}-{number}-{turn}").done.wait()

        return await self._measured(*[one_client(number) for number in range(clients)])

    async def open(self, rate: float, seconds: float, seed: int) -> Outcome:
        rng = random.Random(seed)

        async def arrivals() -> None:
            due_s, end_s, sent = time.monotonic(), time.monotonic() + seconds, []
            while (due_s := due_s + rng.expovariate(rate)) < end_s:
                await asyncio.sleep(due_s - time.monotonic())
                sent.append(self._request(rng, f"{seed}-{len(sent)}"))
            for reply in sent:
                await reply.done.wait()

        return await self._measured(arrivals())

    def _request(self, rng: random.Random, name: str) -> Reply:
        prompt = tuple(rng.choices(range(300, 4000), k=rng.randint(128, 512)))
        reply = self._front.replies[name] = Reply(time.monotonic())
        sampling = SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0.0)
        self._client.submit([EngineRequest(name, prompt, sampling, arrival_s=reply.arrival_s)])
        return reply

    async def _measured(self, *work: asyncio.Future[None] | object) -> Outcome:
        self._front.replies.clear()
        before, begin_s = await self._device(), time.monotonic()
        await asyncio.gather(*work)  # type: ignore[arg-type]
        wall_s = time.monotonic() - begin_s
        after = await self._device()
        replies = self._front.replies.values()
        busy_s, idle_s = (after[key] - before[key] for key in ("busy_s", "idle_s"))
        ttft_ms = [1e3 * (reply.first_s - reply.arrival_s) for reply in replies]
        return Outcome(sum(reply.tokens for reply in replies) / wall_s, ttft_ms, idle_s / (busy_s + idle_s))

    async def _device(self) -> dict[str, float]:
        await asyncio.sleep(0.3)  # an idle moment, in which it writes them
        return json.loads(self._counts.read_text())


async def measure(variant: str, seed: int, levels: list[int], rates: list[float]) -> dict[str, Outcome]:
    with tempfile.TemporaryDirectory() as run_dir:
        counts = Path(run_dir) / "counts.json"
        os.environ["TIMED_RUNNER_COUNTS"] = str(counts)
        front = Front()
        client = EngineClient(run_dir, front)
        client.open()
        config = EngineConfig(str(MODEL), enable_prefix_caching=False, max_num_batched_tokens=8192)
        supervisor = Supervisor(config, run_dir, client, lambda _: None, runner=f"benchmarks.timed_runner:{variant}")
        supervisor.start()
        try:
            await asyncio.wait_for(front.ready.wait(), 60)
            load = Load(client, front, counts)
            await load.closed(4, 1, -1)
            closed = {f"{n} clients": await load.closed(n, 4 if n < 64 else 2, seed) for n in levels}
            return closed | {f"{rate:g} requests a second": await load.open(rate, 10.0, seed) for rate in rates}
        finally:
            client.close()
            await supervisor.stop()


def table(rounds: list[dict[str, dict[str, Outcome]]]) -> str:
    lines = [
        "| load | planned | tok/s (range) | TTFT p50 / p99 ms | device idle |",
        "| --- | --- | --- | --- | --- |",
    ]
    for load in rounds[0][VARIANTS[0]]:
        for variant in VARIANTS:
            outcomes = [each[variant][load] for each in rounds]
            rates = sorted(outcome.tokens_per_s for outcome in outcomes)
            ttft_ms = statistics.quantiles((ms for outcome in outcomes for ms in outcome.ttft_ms), n=100)
            idle = statistics.median(outcome.idle_share for outcome in outcomes)
            lines.append(
                f"| {load} | {NAMES[variant]} | {statistics.median(rates):,.0f} ({rates[0]:,.0f}-{rates[-1]:,.0f}) "
                f"| {ttft_ms[49]:.1f} / {ttft_ms[98]:.1f} | {idle:.1%} |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--clients", default="1,8,32,64,128,256", help="closed loop")
    arguments.add_argument("--rates", default="10,30", help="open loop: requests a second, for 10 s")
    options = arguments.parse_args()
    levels = [int(level) for level in options.clients.split(",")]
    rates = [float(rate) for rate in options.rates.split(",")]
    with contextlib.suppress(PermissionError):  # as the engine: see timed_runner.build
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    rounds: list[dict[str, dict[str, Outcome]]] = []
    for number in range(options.rounds):
        order = VARIANTS if number % 2 == 0 else VARIANTS[::-1]
        rounds.append({variant: asyncio.run(measure(variant, number, levels, rates)) for variant in order})
    sys.stdout.write(table(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
