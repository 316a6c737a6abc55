"""Our server against transformers' `generate` on CPU, in one run, on a Qwen2.5-0.5B-shaped random checkpoint.

    python -m benchmarks.cpu_decode [--rounds 3] [--threads N] [--prompt 128] [--output 128]

Ours is measured from outside: a server process, streaming clients over HTTP, all starting at once. Both sides take
turns within each round, so that a noisy machine disturbs both. The limit is what the memory can deliver if each
decode step reads all weights once, measured before every round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import torch
import transformers
from rich.console import Console

from benchmarks.random_checkpoint import ensure_checkpoint
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


class Transformers:
    """The worker process."""

    def __init__(self, folder: Path, threads: int, dtype: str) -> None:
        command = [sys.executable, "-m", "benchmarks.transformers_worker", str(folder), str(threads), dtype]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read()

    def run(self, batch: int, prompt: int, output: int, seed: int) -> dict[str, Any]:
        pipe: IO[str] | None = self.process.stdin
        if pipe is None:
            raise RuntimeError("the worker has no input")
        pipe.write(json.dumps({"batch": batch, "prompt": prompt, "output": output, "seed": seed}) + "\n")
        pipe.flush()
        found: dict[str, Any] = json.loads(self._read())
        return found

    def _read(self) -> str:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError("the transformers worker ended")
        return line

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class Server:
    """Our server process and its clients."""

    def __init__(self, folder: Path, threads: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "oai_server", "serve", "--model", str(folder), "--port", str(port)]
        command += ["--served-model-name", "m", "--max-model-len", "4096", "--log-level", "warning"]
        environment = {**os.environ, "OAI_SERVER_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("the server did not start")
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def run(self, clients: int, prompt: int, output: int, seed: int) -> dict[str, Any]:
        return asyncio.run(self._run(clients, prompt, output, seed))

    async def _run(self, clients: int, prompt: int, output: int, seed: int) -> dict[str, Any]:
        draw = random.Random(seed)
        prompts = [[draw.randrange(150_000) for _ in range(prompt)] for _ in range(clients)]
        async with httpx.AsyncClient(base_url=self.url, timeout=600) as http:
            began_s = time.perf_counter()
            times = await asyncio.gather(*(self._stream(http, ids, output) for ids in prompts))
            took_s = time.perf_counter() - began_s
        return {
            "tokens_per_s": clients * output / took_s,
            "ttft_s": [one[0] - began_s for one in times],
            "itl_s": [(one[-1] - one[0]) / (output - 1) for one in times],
            "peak_bytes": peak_bytes(self.process.pid),
        }

    async def _stream(self, http: httpx.AsyncClient, token_ids: list[int], output: int) -> list[float]:
        body = {"model": "m", "prompt": token_ids, "max_tokens": output, "ignore_eos": True, "temperature": 0}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        times: list[float] = []
        completion_tokens = 0
        async with http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if event["choices"]:
                    times.append(time.perf_counter())
                completion_tokens = (event.get("usage") or {}).get("completion_tokens", completion_tokens)
        if completion_tokens != output:
            raise RuntimeError(f"{completion_tokens} tokens came, {output} were asked for")
        return times

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


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
    server, peer = Server(folder, options.threads), Transformers(folder, options.threads, options.peer_dtype)
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
