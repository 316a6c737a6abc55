"""Ours and a peer, one after the other: same GPU, model folder and requests; `python -m benchmarks.serve_compare`.

    python -m benchmarks.serve_compare --model DIR --clients 1,8,64 \\
        --peer "python -m vllm.entrypoints.openai.api_server --model {model} --load-format dummy \\
                --served-model-name m --port {port} --max-model-len 8192"

Each server is started, waited for, warmed, loaded level by level with `benchmarks.load`, and stopped. The table gives
tokens a second of both, their ratio, TTFT of both, and how near ours comes to what the memory's bandwidth allows.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks import load
from engine.models.config import ModelConfig, load_model_config

OURS = (
    "{python} -m oai_server serve --model {model} --served-model-name m --port {port} --load-format dummy "
    "--max-model-len 8192 --max-num-seqs {max_num_seqs} --generation-config vllm"
)
STOP_TIMEOUT_S = 30.0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Server:
    """A server process in a group of its own."""

    def __init__(self, command: str, url: str, log: Path, start_timeout_s: float) -> None:
        self._log = log.open("wb")
        self._url = url
        begun = time.monotonic()
        self._process = subprocess.Popen(
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
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with {self._process.returncode}; see {self._log.name}")
            try:
                with urllib.request.urlopen(f"{self._url}/health", timeout=2) as reply:
                    if reply.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server was not healthy in time; see {self._log.name}")

    def stop(self) -> None:
        for sent, timeout_s in ((signal.SIGINT, STOP_TIMEOUT_S), (signal.SIGKILL, 10.0)):
            if self._process.poll() is None:
                os.killpg(self._process.pid, sent)
                try:
                    self._process.wait(timeout_s)
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


def run_server(name: str, command: str, args: argparse.Namespace) -> tuple[list[dict[str, object]], float]:
    url = f"http://127.0.0.1:{args.port}"
    names = {
        "python": sys.executable,
        "model": args.model,
        "port": args.port,
        "max_num_seqs": max(int(clients) for clients in args.clients.split(",")),
    }
    say(f"== {name}: starting")
    server = Server(command.format(**names), url, args.logs / f"{name}.log", args.start_timeout)
    try:
        say(f"== {name}: healthy after {server.start_s:.1f} s")
        options = ["--url", url, "--model", "m", "--clients", args.clients, "--input", args.input]
        options += [
            "--output",
            str(args.output),
            "--temperature",
            str(args.temperature),
            "--rounds",
            str(args.rounds),
        ]
        options += ["--shared-prefix", str(args.shared_prefix), "--seed", str(args.seed), "--endpoint", args.endpoint]
        options += ["--processes", str(args.processes)]
        return load.measure(load.parse_args(options)), server.start_s
    finally:
        server.stop()


def table(results: dict[str, list[dict[str, object]]], args: argparse.Namespace) -> list[str]:
    """Rows of a Markdown table."""
    config = load_model_config(args.model)
    shortest, longest = (int(part) for part in args.input.split(":"))
    context = args.shared_prefix + (shortest + longest) / 2 + args.output / 2
    rows = [
        "| clients | ours tok/s | peer tok/s | ratio | ours TTFT p50 / p99 ms | peer TTFT p50 / p99 | of the limit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    peers: list[dict[str, object]] = results.get("peer") or [{} for _ in results["ours"]]
    for ours, peer in zip(results["ours"], peers, strict=True):
        limit = bandwidth_limit(config, int(str(ours["clients"])), context, args.bandwidth)
        mine, theirs = float(str(ours["output_tokens_per_s"])), float(str(peer.get("output_tokens_per_s", "nan")))
        ttft = [
            f"{float(str(level.get('ttft_p50_ms', 'nan'))):.0f} / {float(str(level.get('ttft_p99_ms', 'nan'))):.0f}"
            for level in (ours, peer)
        ]
        rows.append(
            f"| {ours['clients']} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} | {ttft[0]} | {ttft[1]} "
            f"| {100 * mine / limit:.0f} % |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--ours", default=OURS, help="command; {model}, {port}, {python}, {max_num_seqs} are filled in"
    )
    parser.add_argument("--peer", default="", help="command of the other server; empty: ours alone")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--clients", default="1,8,32,64,128,256")
    parser.add_argument("--input", default="128:512")
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--endpoint", choices=("completions", "chat"), default="completions")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--shared-prefix", type=int, default=0)
    parser.add_argument("--rounds", type=float, default=2.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bandwidth", type=float, default=4.28, help="the GPU's measured copy bandwidth, TB/s")
    parser.add_argument("--start-timeout", type=float, default=300.0, help="seconds")
    parser.add_argument("--logs", type=Path, default=Path("/tmp"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.logs.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, object]]] = {}
    starts: dict[str, float] = {}
    for name, command in (("peer", args.peer), ("ours", args.ours)):
        if command:
            results[name], starts[name] = run_server(name, command, args)
    say("\n".join(table(results, args)))
    say("started in " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in starts.items()))
    if args.json:
        args.json.write_text(json.dumps({"results": results, "start_s": starts}, indent=1))


if __name__ == "__main__":
    main()
