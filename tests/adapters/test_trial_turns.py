"""Turns of several processes at trying suspects: one at a time, and never in the way once they are gone."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from adapters.trial_turns import TrialTurns


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TrialTurns, TrialTurns]:
    """Of processes with different numbers."""
    first = TrialTurns(str(tmp_path))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    return first, TrialTurns(str(tmp_path))


def test_one_at_a_time_and_both_know_of_each_other(two: tuple[TrialTurns, TrialTurns]) -> None:
    first, second = two
    assert not first.others_wait()
    first.announce()
    second.announce()
    first.announce()
    assert first.others_wait() and second.others_wait()
    assert first.take() and first.take()
    assert not second.take()
    first.done()
    assert first.others_wait() and not second.others_wait()
    assert second.take()
    second.done()
    assert not first.others_wait()


def test_without_a_folder_nobody_waits(tmp_path: Path) -> None:
    turns = TrialTurns(str(tmp_path / "gone"))
    turns.announce()
    assert turns.take()
    assert not turns.others_wait()
    turns.done()


def _hold(folder: str, ready: Connection) -> None:
    turns = TrialTurns(folder)
    turns.announce()
    ready.send(turns.take())
    ready.recv()


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    other = spawn.Process(target=_hold, args=(str(tmp_path), there))
    other.start()
    assert here.recv()
    turns = TrialTurns(str(tmp_path))
    assert turns.others_wait()
    assert not turns.take()
    other.kill()
    other.join(10)
    assert not turns.others_wait()
    assert turns.take()
    turns.done()
    assert [path.name for path in tmp_path.iterdir()] == ["turn"]
