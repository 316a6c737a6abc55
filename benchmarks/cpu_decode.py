"""Our server against transformers' `generate` on CPU, in one run, on a Qwen2.5-0.5B-shaped random checkpoint.

    python -m benchmarks.cpu_decode [--rounds 3] [--threads N] [--prompt 128] [--output 128]

Ours is measured from outside: a server process, streaming clients over HTTP, all starting at once. Both sides take
turns within each round, so that a noisy machine disturbs both. The limit is what the memory can deliver if each
decode step reads all weights once, measured before every round.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import platform
import random
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from benchmarks import load
from benchmarks.random_checkpoint import ensure_checkpoint
from benchmarks.scenarios import Scenario
from benchmarks.serve_compare import Server
from benchmarks.transformers_peer import TransformersPeer
from engine.memory.arena import Arena
from engine.models.config import load_model_config
from engine.models.weights import weights_nbytes
from engine.native import load_native
from engine.runner.hardware import inspect_hardware, physical_cores

OURS = (1, 4, 8)
THEIRS = (1, 8)
PROBE_BYTES = 512 << 20
START_TIMEOUT_S = 300.0


@dataclass(slots=True)
class Samples:
    """One engine at one level, over all rounds."""

    tokens_per_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    itl_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def add(self, run: dict[str, Any]) -> None:
        self.tokens_per_s.append(run["tokens_per_s"])
        self.ttft_s += run["ttft_s"]
        self.itl_s += run["itl_s"]
        self.peak_bytes = max(self.peak_bytes, run["peak_bytes"])


class Ours:
    """Our server process and its clients."""

    def __init__(self, folder: Path, threads: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = f"{sys.executable} -m oai_server serve --model {folder} --port {port} "
        command += f"--served-model-name m --max-model-len 4096 --num-threads {threads} --log-level warning"
        self._server = Server(command, port, folder.parent / "server.log", START_TIMEOUT_S)
        self._target = load.Target(self._server.url, "m")

    def run(self, clients: int, prompt: int, output: int, seed: int) -> dict[str, Any]:
        scenario = Scenario(input=(prompt, prompt), output=output)
        chooser, samples = random.Random(seed), load.Samples()
        bodies = [load.body(self._target, scenario, chooser, chooser) for _ in range(clients)]
        began_s = time.perf_counter()
        asyncio.run(load.closed_loop(self._target, load.path(scenario), clients, bodies, samples))
        took_s = time.perf_counter() - began_s
        if samples.errors or samples.tokens != clients * output:
            raise RuntimeError(
                f"{samples.tokens} tokens came, {clients * output} were asked for; {samples.errors[:1]}"
            )
        return {
            "tokens_per_s": samples.tokens / took_s,
            "ttft_s": samples.ttft,
            "itl_s": samples.tpot,
            "peak_bytes": peak_bytes(self._server.process.pid),
        }

    def close(self) -> None:
        self._server.stop()


def peak_bytes(pid: int) -> int:
    """Peak resident memory of a process and its children (pages they share count twice)."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if pid in (int(fields["Pid"]), int(fields["PPid"])):
            total += int(fields.get("VmHWM", "0 kB").split()[0]) * 1024
    return total


def read_bandwidth(threads: int) -> float:
    """Bytes a second that all threads together read, best of five passes."""
    memory = Arena(PROBE_BYTES, large_pages=True).tensor((PROBE_BYTES,), torch.uint8).fill_(1)
    native = load_native(threads)
    if native is None:
        raise RuntimeError("the native kernels are needed to measure the memory")
    took = []
    for _ in range(5):
        began_s = time.perf_counter()
        native.read(memory)
        took.append(time.perf_counter() - began_s)
    native.close()
    return PROBE_BYTES / min(took)


def natural_dtype() -> str:
    """bfloat16 where torch multiplies it natively; elsewhere transformers is faster in float32, twice the memory."""
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def report(results: dict[tuple[str, int], Samples], limits: dict[int, float], rounds: int) -> str:
    """A markdown table; medians, with the lowest and the highest round."""
    lines = [
        "| engine | clients | tokens/s (range) | of the memory's limit | TTFT ms p50 / max | ITL ms p50 | peak GiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (engine, clients), samples in sorted(results.items()):
        speed = statistics.median(samples.tokens_per_s)
        lines.append(
            f"| {engine} | {clients} | {speed:.1f} ({min(samples.tokens_per_s):.1f}-{max(samples.tokens_per_s):.1f}) "
            f"| {speed / limits[clients]:.0%} | {statistics.median(samples.ttft_s) * 1e3:.0f} / "
            f"{max(samples.ttft_s) * 1e3:.0f} | {statistics.median(samples.itl_s) * 1e3:.1f} "
            f"| {samples.peak_bytes / 2**30:.2f} |"
        )
    for clients in THEIRS:
        ours, theirs = (statistics.median(results[name, clients].tokens_per_s) for name in ("ours", "transformers"))
        lines.append(f"\nOurs is {ours / theirs:.2f} times transformers at {clients}.")
    return "\n".join([*lines, f"\nMedians of {rounds} rounds."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--peer-dtype", default=natural_dtype(), help="of transformers; default: what suits this CPU")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/qwen2.5-0.5b-random"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    console = Console()
    folder = ensure_checkpoint(options.folder)
    config = load_model_config(folder)
    weights = weights_nbytes(config, torch.bfloat16)
    machine = inspect_hardware()
    console.print(
        f"{machine.cpu}, {machine.cores} cores, {', '.join(machine.cpu_flags)}; {options.threads} threads; "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{weights / 1e9:.2f} GB of bfloat16 weights (transformers: {options.peer_dtype}), prompt {options.prompt}, "
        f"output {options.output}, greedy\n",
        highlight=False,
    )
    results: dict[tuple[str, int], Samples] = {("ours", n): Samples() for n in OURS}
    results |= {("transformers", n): Samples() for n in THEIRS}
    bandwidths = []
    server, peer = Ours(folder, options.threads), TransformersPeer(folder, options.threads, options.peer_dtype)
    try:
        server.run(1, options.prompt, 8, seed=99)
        peer.run(1, options.prompt, 8, seed=99)
        for number in range(options.rounds):
            bandwidths.append(read_bandwidth(options.threads))
            for (engine, clients), samples in results.items():
                side = server if engine == "ours" else peer
                samples.add(side.run(clients, options.prompt, options.output, number * 100 + clients))
    finally:
        server.close()
        peer.close()
    bandwidth = statistics.median(bandwidths)
    limits = {clients: clients * bandwidth / weights for clients in OURS}
    console.print(report(results, limits, options.rounds), highlight=False, markup=False, soft_wrap=True)
    console.print(f"Memory: {bandwidth / 1e9:.1f} GB/s read by {options.threads} threads.", highlight=False)


if __name__ == "__main__":
    main()
