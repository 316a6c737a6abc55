"""Speed of two servers on one CPU, one after the other: same checkpoint, same requests, medians of three rounds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.load import Level, Target
from benchmarks.load import measure as measure_load
from benchmarks.scenarios import Scenario
from compat_tests.servers import ROOT

VOCABULARY = 151_643


def checkpoint() -> Path:
    """Qwen2.5-0.5B's shape with random weights, so that nothing has to be downloaded."""
    from benchmarks.random_checkpoint import ensure_checkpoint

    return ensure_checkpoint(ROOT / "build" / "benchmarks" / "qwen2.5-0.5b-random")


def measure(url: str, model: str, levels: tuple[int, ...]) -> list[Level]:
    """All clients of a level begin together, each with a fresh prompt: a known one would measure the prefix cache."""
    scenario = Scenario("cpu", levels, input=(128, 128), output=128, per_client=1, min_requests=1, rounds=3)
    return measure_load(Target(url, model, VOCABULARY, processes=1), scenario)


def table(results: dict[str, list[Level]]) -> str:
    lines = [
        "| server | clients | tok/s median (min-max) | TTFT ms | ITL ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for server, levels in results.items():
        for level in levels:
            rates = level["output_tokens_per_s_rounds"]
            lines.append(
                f"| {server} | {level['clients']} "
                f"| {level['output_tokens_per_s']:.1f} ({min(rates):.1f}-{max(rates):.1f}) "
                f"| {level['ttft_p50_ms']:.0f} | {level['gap_p50_ms']:.1f} |"
            )
    return "\n".join(lines)
