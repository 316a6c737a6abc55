"""This engine beside transformers' `generate`, both in process, on random weights of real shapes: on a GPU or a CPU.

    python -m benchmarks.transformers_generate DIR [DIR ...] [--batches 1,8] [--prompt 128] [--output 256]

A batch is as many prompts of equal length, all there at once, decoded greedily to the same length. `generate` runs as
it comes: bf16, sdpa attention, growing cache. Each side has the device to itself, one after the other.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.serve_compare import bandwidth_limit
from benchmarks.transformers_peer import TransformersPeer

SIDES = ("ours", "transformers")


def run_ours(folder: Path, args: argparse.Namespace) -> dict[int, list[dict[str, float]]]:
    """Numbers of each round by batch."""
    from engine.config import EngineConfig
    from engine.core import EngineCore
    from engine.runner.factory import build_runner

    batches = [int(batch) for batch in args.batches.split(",")]
    config = EngineConfig(
        str(folder),
        device=args.device,
        dtype=args.dtype,
        load_format="auto" if any(folder.glob("*.safetensors")) else "dummy",
        max_model_len=args.prompt + args.output,
        max_num_seqs=max(batches),
        attention_backend=args.attention_backend,
    )
    runner, info = build_runner(config, lambda phase, fraction, detail: None)
    runner.warm_up()
    core = EngineCore(config, runner)
    chooser = random.Random(1)
    found = {}
    for batch in batches:
        rounds = [
            _one_batch(core, batch, min(150_000, info.vocab_size), args, chooser) for _ in range(args.rounds + 1)
        ]
        found[batch] = rounds[1:]
    runner.close()
    return found


def _one_batch(
    core: Any, batch: int, vocab: int, args: argparse.Namespace, chooser: random.Random
) -> dict[str, float]:
    from engine.request import EngineRequest
    from engine.sampling_params import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=args.output)
    prompts = [tuple(chooser.choices(range(vocab), k=args.prompt)) for _ in range(batch)]
    name = str(chooser.random())
    first: dict[str, float] = {}
    tokens = 0
    began_s = time.perf_counter()
    for number, prompt in enumerate(prompts):
        core.add_request(EngineRequest(f"{name}-{number}", prompt, sampling=sampling))
    while core.has_work():
        for output in core.step():
            tokens += len(output.token_ids)
            first.setdefault(output.request_id, time.perf_counter())
    took_s, last_first = time.perf_counter() - began_s, max(first.values()) - began_s
    return {
        "tokens_per_s": tokens / took_s,
        "ttft_s": statistics.median(first.values()) - began_s,
        "itl_s": (took_s - last_first) / max(1, args.output - 1),
    }


def run_transformers(folder: Path, args: argparse.Namespace) -> dict[int, list[dict[str, float]]]:
    """The same through the worker process."""
    found = {}
    with TransformersPeer(folder, args.threads, args.dtype, args.device) as peer:
        for batch in (int(batch) for batch in args.batches.split(",")):
            rounds = []
            for number in range(args.rounds + 1):
                reply = peer.run(batch, args.prompt, args.output if number else 4, number)  # the first is warm-up
                rounds.append(
                    {
                        "tokens_per_s": reply["tokens_per_s"],
                        "ttft_s": statistics.median(reply["ttft_s"]),
                        "itl_s": statistics.median(reply["itl_s"]),
                    }
                )
            found[batch] = rounds[1:]
    return found


def in_own_process(side: str, folder: Path, args: argparse.Namespace) -> dict[int, list[dict[str, float]]]:
    """Ours, with the device's memory given back at its end."""
    if side == "transformers":
        return run_transformers(folder, args)
    command = [sys.executable, "-m", "benchmarks.transformers_generate", str(folder), "--ours-only"]
    for name in ("batches", "prompt", "output", "rounds", "device", "dtype", "attention_backend"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {int(batch): rounds for batch, rounds in json.loads(done.stdout.splitlines()[-1]).items()}


def rows_of(
    folder: Path, results: dict[str, dict[int, list[dict[str, float]]]], args: argparse.Namespace
) -> list[str]:
    from engine.models.config import load_model_config

    config = load_model_config(folder)
    rows = []
    for batch in results["ours"]:
        cells = [folder.name, str(batch)]
        speed = {}
        for side in SIDES:
            rounds = results.get(side, {}).get(batch, [])
            if not rounds:
                cells += ["-", "-", "-"]
                continue
            speeds = [entry["tokens_per_s"] for entry in rounds]
            speed[side] = statistics.median(speeds)
            cells.append(f"{speed[side]:.0f} ({min(speeds):.0f}-{max(speeds):.0f})")
            cells += [f"{1e3 * statistics.median(e[name] for e in rounds):.1f}" for name in ("ttft_s", "itl_s")]
        ratio = speed["ours"] / speed["transformers"] if len(speed) == 2 else float("nan")
        limit = bandwidth_limit(config, batch, args.prompt + args.output / 2, args.bandwidth)
        cells += [f"{ratio:.1f}", f"{100 * speed['ours'] / limit:.0f} %"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--attention-backend", default="auto")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--bandwidth", type=float, default=4.28, help="the device's measured copy bandwidth, TB/s")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ours-only", action="store_true", help="one folder, numbers as JSON on stdout")
    args = parser.parse_args()
    if args.ours_only:
        sys.stdout.write(json.dumps(run_ours(args.folders[0], args)) + "\n")
        return
    lines = [
        "| model | batch | ours tok/s (range) | TTFT ms | ITL ms | transformers tok/s (range) | TTFT ms | ITL ms "
        "| ratio | ours, of the limit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    found: dict[str, Any] = {}
    for folder in args.folders:
        results = {}
        for side in SIDES:
            try:
                results[side] = in_own_process(side, folder, args)
            except (RuntimeError, OSError, ValueError, subprocess.CalledProcessError) as error:
                lines.append(f"{folder.name}: {side} failed: {error}")
        found[folder.name] = results
        if "ours" in results:
            lines += rows_of(folder, results, args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    sys.stdout.write(
        "\n".join([*lines, f"\nprompt {args.prompt}, output {args.output}, greedy, {args.rounds} rounds"])
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
