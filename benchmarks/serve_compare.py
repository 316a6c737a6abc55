"""Ours and a peer, one after the other: same GPU, model folder and requests; `python -m benchmarks.serve_compare`.

    python -m benchmarks.serve_compare --model DIR --clients 1,8,64 \\
        --peer "python -m vllm.entrypoints.openai.api_server --model {model} --load-format dummy \\
                --served-model-name m --port {port} --max-model-len 8192"

Each server is started once, waited for, loaded with every scenario level by level (`benchmarks.load`), and stopped.
The prompts are the same for both and fresh for each level and round. A table a scenario gives tokens a second of both
(the median round, and the lowest and highest), their ratio, TTFT and TPOT of both, and how near ours comes to what
the memory's bandwidth allows. Several scenarios share a start:

    --scenario "standard:clients=1/8/64,rounds=3" --scenario "long:clients=16,input=8192:8192,output=128"
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import load
from benchmarks.scenarios import Scenario, add_options, from_options

if TYPE_CHECKING:  # its import costs seconds, which every process of the load client would pay
    from engine.models.config import ModelConfig

OURS = (
    "{python} -m oai_server serve --model {model} --served-model-name m --port {port} --load-format dummy "
    "--max-model-len 8192 --max-num-seqs {max_num_seqs} --generation-config vllm"
)
STOP_TIMEOUT_S = 30.0


class Server:
    """A server process in a group of its own."""

    def __init__(self, command: str, port: int, log: Path, start_timeout_s: float) -> None:
        """Raises RuntimeError where it cannot be started, and where another one would be measured in its place."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise RuntimeError(f"another server answers on port {port} already")
        self._log = log.open("wb")
        self.url = f"http://127.0.0.1:{port}"
        begun = time.monotonic()
        self.process = subprocess.Popen(
            shlex.split(command), stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            self._wait(begun + start_timeout_s)
        except RuntimeError:
            self.stop()
            raise
        self.start_s = time.monotonic() - begun

    def _wait(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}; see {self._log.name}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2) as reply:
                    if reply.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server was not healthy in time; see {self._log.name}")

    def stop(self) -> None:
        for sent, timeout_s in ((signal.SIGINT, STOP_TIMEOUT_S), (signal.SIGKILL, 10.0)):
            if self.process.poll() is None:
                os.killpg(self.process.pid, sent)
                try:
                    self.process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    continue
        self._log.close()


def bandwidth_limit(config: ModelConfig, clients: int, context: float, terabytes_per_s: float) -> float:
    """Tokens a second if every decode step read the weights and the keys once and cost nothing else."""
    hidden, inner = config.hidden_size, config.intermediate_size
    layer = hidden * (config.qkv_width + config.num_heads * config.head_dim + 3 * inner)
    weights = 2 * (config.num_layers * layer + config.vocab_size * hidden)
    keys = 4 * config.num_layers * config.num_kv_heads * config.head_dim
    return clients * terabytes_per_s * 1e12 / (weights + clients * context * keys)


@dataclass(slots=True)
class Outcome:
    """One server's numbers."""

    start_s: float = math.nan
    levels: dict[str, list[load.Level]] = field(default_factory=dict)
    """By scenario; a scenario that failed is left out."""
    failures: dict[str, str] = field(default_factory=dict)


def run_server(
    name: str, command: str, scenarios: list[Scenario], args: argparse.Namespace, outcome: Outcome
) -> None:
    """Start it, run the scenarios in turn, stop it. What fails is told and does not stop the rest."""
    names = {
        "python": sys.executable,
        "model": args.model,
        "port": args.port,
        "max_num_seqs": args.max_num_seqs or max(clients for s in scenarios for clients in (*s.clients, 1)),
    }
    load.say(f"== {name}: starting")
    try:
        server = Server(command.format(**names), args.port, args.logs / f"{name}.log", args.start_timeout)
    except (RuntimeError, OSError) as error:
        load.say(f"== {name}: {error}")
        outcome.failures["start"] = str(error)
        return
    try:
        outcome.start_s = server.start_s
        load.say(f"== {name}: healthy after {server.start_s:.1f} s")
        target = load.Target(server.url, "m", args.vocab, processes=args.processes, seed=args.seed)
        for number, scenario in enumerate(scenarios):
            try:
                outcome.levels[scenario.name] = load.measure(target, scenario, warm=number == 0)
            except (RuntimeError, OSError, queue.Empty) as error:
                load.say(f"== {name}: {scenario.name} failed: {error!r}")
                outcome.failures[scenario.name] = repr(error)
    finally:
        server.stop()


def table(scenario: Scenario, outcomes: dict[str, Outcome], args: argparse.Namespace) -> list[str]:
    """Rows of a Markdown table: a level of one scenario each."""
    from engine.models.config import load_model_config

    config = load_model_config(args.model)
    sampling = " ".join(f"{name} {value:g}" for name, value in scenario.sampling.items())
    rows = [
        f"**{scenario.name}**: {scenario.input[0]}-{scenario.input[1]} tokens in"
        + (f" behind {scenario.shared_prefix} shared ones" if scenario.shared_prefix else "")
        + f", {scenario.output} out, {sampling}, rounds: {scenario.rounds}",
        "",
        "| load | ours tok/s (range) | peer tok/s (range) | ratio | ours TTFT p50 / p99 ms | peer TTFT p50 / p99 | "
        "TPOT p50 ms, ours | peer | of the limit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    by_load = {
        name: {(level["clients"], level["rate"]): level for level in outcome.levels.get(scenario.name, [])}
        for name, outcome in outcomes.items()
    }
    for clients, rate in scenario.loads:
        ours, peer = (by_load.get(name, {}).get((clients, rate), {}) for name in ("ours", "peer"))
        mine, theirs = (level.get("output_tokens_per_s", math.nan) for level in (ours, peer))
        limit = bandwidth_limit(config, clients, scenario.context, args.bandwidth) if clients else math.nan
        cells = [
            f"{rate:g} req/s" if rate else str(clients),
            _speed(ours),
            _speed(peer),
            f"{mine / (theirs or math.nan):.2f}",
        ]
        cells += [_latency(level, "ttft", (50, 99), 0) for level in (ours, peer)]
        cells += [_latency(level, "tpot", (50,), 2) for level in (ours, peer)]
        cells.append("" if math.isnan(limit) else f"{100 * mine / limit:.0f} %")
        wrong = {name: level["errors"] for name, level in (("ours", ours), ("peer", peer)) if level.get("errors")}
        rows.append(f"| {' | '.join(cells)} |" + (f" ERRORS {wrong}" if wrong else ""))
    return rows


def _speed(level: load.Level) -> str:
    if not level:
        return "-"
    rounds = level["output_tokens_per_s_rounds"]
    spread = f" ({min(rounds):.0f}-{max(rounds):.0f})" if len(rounds) > 1 else ""
    return f"{level['output_tokens_per_s']:.0f}{spread}"


def _latency(level: load.Level, name: str, percents: tuple[int, ...], digits: int) -> str:
    return " / ".join(f"{level.get(f'{name}_p{percent}_ms', math.nan):.{digits}f}" for percent in percents)


def busiest(outcomes: dict[str, Outcome]) -> str:
    """Whether the load client could have been the limit."""
    levels = [level for outcome in outcomes.values() for found in outcome.levels.values() for level in found]
    worst = max(levels, key=lambda level: level["client_busy"], default=None)
    if worst is None:
        return "nothing was measured"
    who = f"{worst['clients']} clients" if worst["clients"] else f"{worst['rate']:g} req/s"
    share, processes = worst["client_busy"], worst["client_processes"]
    return f"load client: its busiest process took {share:.0%} of a core (one of {processes}, at {who})"


def write(outcomes: dict[str, Outcome], scenarios: list[Scenario], args: argparse.Namespace) -> None:
    """What is known so far, so that a run that is cut off leaves what it has."""
    if args.json:
        found = {
            "model": args.model,
            "scenarios": [dataclasses.asdict(scenario) for scenario in scenarios],
            "outcomes": {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()},
        }
        args.json.write_text(json.dumps(found, indent=1))
    if args.plot:
        try:
            from benchmarks.plots import plot_loads

            plot_loads({name: outcome.levels for name, outcome in outcomes.items()}, args.plot)
        except ImportError as error:
            load.say(f"no picture: {error}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--ours", default=OURS, help="command; {model}, {port}, {python}, {max_num_seqs} are filled in; empty: none"
    )
    parser.add_argument("--peer", default="", help="command of the other server; empty: ours alone")
    parser.add_argument("--port", type=int, default=8123)
    add_options(parser, clients="1,8,32,64,128,256")
    parser.add_argument("--vocab", type=int, default=150_000, help="prompts are drawn from ids below")
    parser.add_argument("--max-num-seqs", type=int, default=0, help="of ours; 0: as many as the most clients")
    parser.add_argument("--processes", type=int, default=0, help="of the load client; 0: by cores, at most 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bandwidth", type=float, default=4.28, help="the GPU's measured copy bandwidth, TB/s")
    parser.add_argument("--start-timeout", type=float, default=300.0, help="seconds")
    parser.add_argument("--logs", type=Path, default=Path("build/serve_compare"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG; needs matplotlib")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    scenarios = from_options(args)
    args.logs.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a time limit leaves no server behind
    for name, command in (("peer", args.peer), ("ours", args.ours)):
        if command:
            outcomes[name] = Outcome()
            try:
                run_server(name, command, scenarios, args, outcomes[name])
            except (KeyboardInterrupt, SystemExit):
                load.say(f"== {name}: cut off")
                outcomes[name].failures["end"] = "cut off"
                break
            write(outcomes, scenarios, args)
    write(outcomes, scenarios, args)
    for scenario in scenarios:
        load.say("\n".join(["", *table(scenario, outcomes, args)]))
    starts = ", ".join(f"{name} {outcome.start_s:.1f} s" for name, outcome in outcomes.items())
    load.say(f"\n{busiest(outcomes)}; started in {starts}")
    for name, outcome in outcomes.items():
        for what, why in outcome.failures.items():
            load.say(f"{name}: {what} failed: {why}")


if __name__ == "__main__":
    main()
