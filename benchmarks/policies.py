"""The three scheduling policies on one mixed workload, through the real engine, at a load that queues.

    python -m benchmarks.policies [--requests 200] [--rounds 3] [--load 1.5] [--slots 16] [--seed 0] [--model DIR]
    python -m benchmarks.policies --model DIR --requests 400 --slots 32 --load 1.15 --aligned-rounds 1  # on a GPU

Prompts and outputs have lognormal lengths and arrivals are Poisson, drawn from one seed, the same for each policy.
Every request has max_tokens. Half of them reach it, and so say how long they will be. The others allow 256 tokens and
end before, at a stop string, which the engine is told of with their length, as the server tells it. So `sjf` learns
the mean length of both, and expects of each request the mean, or its max_tokens where that is less.

The arrival rate is `load` times what the engine manages when all requests are there at once, measured before every
round. Policies take turns within each round, so that noise disturbs all alike; the slow one may sit out later rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import EngineRequest
from engine.runner.batch import ModelRunner
from engine.runner.factory import build_runner
from engine.sampling_params import SamplingParams
from engine.scheduling.policies import POLICIES, make_policy

DEMO_MODEL = Path(__file__).parent.parent / "oai_server" / "demo_model"
MAX_OUTPUT = 256
VOCAB = 1000


@dataclass(slots=True)
class Job:
    """One request of the workload and what became of it. Times are seconds from the run's start."""

    prompt: tuple[int, ...]
    length: int
    """Tokens after which its client is content."""
    states_length: bool
    arrival_s: float = 0.0
    first_s: float = 0.0
    end_s: float = 0.0
    received: int = 0

    def request(self, name: str, began_s: float, end_id: int) -> EngineRequest:
        max_tokens = self.length if self.states_length else MAX_OUTPUT
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, eos_token_ids=(end_id,))
        return EngineRequest(name, self.prompt, sampling, arrival_s=began_s + self.arrival_s)


@dataclass(slots=True)
class Measured:
    """One policy, one value a round."""

    mean_s: list[float] = field(default_factory=list)
    median_s: list[float] = field(default_factory=list)
    p99_s: list[float] = field(default_factory=list)
    ttft_mean_s: list[float] = field(default_factory=list)
    ttft_p99_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    rows_a_step: list[float] = field(default_factory=list)


def draw_workload(count: int, rate: float, seed: int) -> list[Job]:
    """`count` jobs, `rate` a second (0: all at once). The same seed gives the same jobs at every rate."""
    lengths, gaps = random.Random(seed), random.Random(seed + 1)
    jobs, now_s = list[Job](), 0.0
    for _ in range(count):
        prompt = min(768, max(4, round(lengths.lognormvariate(4.4, 0.9))))
        output = min(MAX_OUTPUT, max(2, round(lengths.lognormvariate(3.5, 0.9))))
        tokens = tuple(lengths.randrange(VOCAB) for _ in range(prompt))
        now_s += gaps.expovariate(rate) if rate else 0.0
        jobs.append(Job(tokens, output, lengths.random() < 0.5, arrival_s=now_s))
    return jobs


def play(config: EngineConfig, runner: ModelRunner, policy: str, jobs: list[Job], end_id: int) -> tuple[float, float]:
    """Serve the jobs as they arrive; returns the seconds it took and the mean number of rows in a step.

    Any of them might end by itself, as far as the engine knows, but hardly does: its end id is the vocabulary's last.
    """
    core = EngineCore(config, runner, make_policy(policy))
    live: dict[str, Job] = {}
    began_s, arrived, tokens, steps = time.monotonic(), 0, 0, 0
    while arrived < len(jobs) or live:
        now_s = time.monotonic() - began_s
        while arrived < len(jobs) and jobs[arrived].arrival_s <= now_s:
            live[str(arrived)] = jobs[arrived]
            core.add_request(jobs[arrived].request(str(arrived), began_s, end_id))
            arrived += 1
        if not core.has_work():
            time.sleep(max(0.0, jobs[arrived].arrival_s - now_s))
            continue
        outputs = core.step()
        now_s = time.monotonic() - began_s
        steps += bool(outputs)
        for output in outputs:
            job = live.get(output.request_id)
            if job is None:
                continue
            tokens += len(output.token_ids)
            job.first_s = job.first_s or now_s
            job.received += len(output.token_ids)
            if job.received >= job.length or output.finish_reason is not None:
                job.end_s = now_s
                core.cancel(output.request_id, job.length)
                del live[output.request_id]
    while core.has_work():  # a pipelined runner's last step
        core.step()
    return time.monotonic() - began_s, tokens / max(steps, 1)


def record(measured: Measured, jobs: list[Job], took_s: float, rows: float) -> None:
    latencies = sorted(job.end_s - job.arrival_s for job in jobs)
    firsts = sorted(job.first_s - job.arrival_s for job in jobs)
    measured.mean_s.append(statistics.mean(latencies))
    measured.median_s.append(statistics.median(latencies))
    measured.p99_s.append(percentile(latencies, 0.99))
    measured.ttft_mean_s.append(statistics.mean(firsts))
    measured.ttft_p99_s.append(percentile(firsts, 0.99))
    measured.tokens_per_s.append(sum(job.received for job in jobs) / took_s)
    measured.rows_a_step.append(rows)


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(results: dict[str, Measured]) -> str:
    """A markdown table of medians over the rounds."""
    lines = [
        "| policy | latency s: mean | median | p99 | TTFT s: mean | p99 | tokens/s | rows a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, m in results.items():
        if not m.mean_s:
            continue
        latency = [statistics.median(v) for v in (m.mean_s, m.median_s, m.p99_s, m.ttft_mean_s, m.ttft_p99_s)]
        cells = [f"{value:.2f}" for value in latency]
        cells += [f"{statistics.median(m.tokens_per_s):.0f}", f"{statistics.median(m.rows_a_step):.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=float, default=1.5, help="arrival rate as a share of the measured capacity")
    parser.add_argument("--slots", type=int, default=16, help="sequences running at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--aligned-rounds", type=int, default=10**6, help="rounds that aligned-sjf takes part in")
    parser.add_argument("--attention-backend", default="auto")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    config = EngineConfig(
        model_path=str(options.model),
        device=options.device,
        load_format="auto" if any(options.model.glob("*.safetensors")) else "dummy",
        max_num_seqs=options.slots,
        max_model_len=1024,
        attention_backend=options.attention_backend,
    )
    runner, info = build_runner(config, lambda phase, fraction, detail: None)
    runner.warm_up()
    end_id = info.vocab_size - 1
    play(config, runner, "fcfs", draw_workload(options.slots, 0.0, options.seed + 100), end_id)
    results = {name: Measured() for name in POLICIES}
    rates = []
    for number in range(options.rounds):
        seed = options.seed + 1000 * number
        took_s, _ = play(config, runner, "fcfs", draw_workload(options.requests, 0.0, seed), end_id)
        rates.append(options.load * options.requests / took_s)
        for name, measured in results.items():
            if name == "aligned-sjf" and number >= options.aligned_rounds:
                continue
            jobs = draw_workload(options.requests, rates[-1], seed)
            record(measured, jobs, *play(config, runner, name, jobs, end_id))
    runner.close()
    if options.json:
        found = {name: dataclasses.asdict(measured) for name, measured in results.items()}
        options.json.write_text(json.dumps({"rates": rates, "policies": found}, indent=1))
    console.print(
        f"{info.device}, {info.dtype}, {info.attention_backend}; Python {platform.python_version()}, "
        f"torch {torch.__version__}; {info.architecture}, {info.weights_bytes / 1e6:.0f} MB of weights; "
        f"{options.requests} requests, {options.slots} slots, {min(rates):.1f}-{max(rates):.1f} requests/s "
        f"({options.load:.0%} of capacity), seed {options.seed}, medians of {options.rounds} rounds "
        f"(aligned-sjf: {min(options.rounds, options.aligned_rounds)})\n"
    )
    console.print(report(results))


if __name__ == "__main__":
    main()
