"""`oai-server doctor`: what hardware, which attention and why, what would be faster, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from engine.runner.doctor import Diagnosis


def report() -> int:
    """Print the diagnosis; returns 0 when a model can be served."""
    # The engine's execution side brings torch, which no other part of this process needs.
    from engine.runner.doctor import diagnose

    console = Console(highlight=False, soft_wrap=True)
    with console.status("looking at this machine"):
        diagnosis = diagnose()
    console.print(_table(diagnosis))
    for advice in diagnosis.advice:
        console.print(f"[yellow]faster[/]   {advice}")
    for problem in diagnosis.problems:
        console.print(f"[red]missing[/]  {problem}")
    if not diagnosis.problems:
        console.print("[green]ready[/]    nothing is missing")
    return 1 if diagnosis.problems else 0


def _table(diagnosis: Diagnosis) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in diagnosis.facts:
        table.add_row(name, value)
    return table
