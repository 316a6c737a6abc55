"""Throughput and TTFT over load, one line a server. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = ("#1b6ca8", "#c8553d", "#4c9f70", "#8d6a9f")
Results = dict[str, dict[str, list[dict[str, Any]]]]
"""Server -> scenario -> levels."""


def plot_loads(results: Results, path: Path) -> None:
    """One row of pictures for each scenario that has more than one level; nothing where none has."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    scenarios = [name for name, levels in next(iter(results.values())).items() if len(levels) > 1]
    if not scenarios:
        return
    figure, rows = pyplot.subplots(len(scenarios), 2, figsize=(11, 4 * len(scenarios)), squeeze=False)
    for name, (left, right) in zip(scenarios, rows, strict=True):
        for colour, (server, found) in zip(COLOURS, results.items(), strict=False):
            levels = found.get(name, [])
            load = [level["rate"] or level["clients"] for level in levels]
            speeds = [level["output_tokens_per_s"] for level in levels]
            below = [s - min(level["output_tokens_per_s_rounds"]) for s, level in zip(speeds, levels, strict=True)]
            above = [max(level["output_tokens_per_s_rounds"]) - s for s, level in zip(speeds, levels, strict=True)]
            left.errorbar(load, speeds, yerr=[below, above], marker="o", capsize=3, label=server, color=colour)
            for percent, style in ((50, "-"), (99, ":")):
                latency = [level[f"ttft_p{percent}_ms"] for level in levels]
                right.plot(load, latency, style, marker="o", label=f"{server} p{percent}", color=colour)
        load = [level["rate"] or level["clients"] for level in next(iter(results.values()))[name]]
        unit = (
            "requests a second" if any(level["rate"] for level in next(iter(results.values()))[name]) else "clients"
        )
        left.set(xlabel=unit, ylabel="output tokens/s", title=name)
        right.set(xlabel=unit, ylabel="TTFT, ms", title=name, yscale="log")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(load, [f"{value:g}" for value in load])
            axes.set_ylim(bottom=0 if axes is left else None)
            axes.grid(alpha=0.3)
            axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
