"""Which keys the decode rows of a step share, found step by step, against looking at all of them anew."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.step_state import StateLayout
from engine.request import EngineRequest, Sequence
from engine.runner import shared_prefix
from engine.runner.batch import ScheduledRow
from engine.runner.shared_prefix import SharedPrefix
from engine.runner.slot_mirror import SlotMirror
from engine.sampling_params import SamplingParams

BLOCK = 64
SLOTS, WIDTH = 40, 48
COMMON = list(range(1000, 1000 + WIDTH))
IDS = [0] * (WIDTH * BLOCK)
REQUEST = EngineRequest("r", (0,), sampling=SamplingParams(temperature=0.0))


def slow_tokens(rows: tuple[ScheduledRow, ...]) -> int:
    blocks = 0
    while all(row.start >= (blocks + 1) * BLOCK for row in rows) and (
        len({row.sequence.block_table[blocks] for row in rows}) == 1
    ):
        blocks += 1
    worth = (
        len(rows) >= shared_prefix.MIN_ROWS
        and blocks * BLOCK >= shared_prefix.MIN_TOKENS
        and (len(rows) - 1) * blocks * BLOCK >= shared_prefix.MIN_TOKENS_SAVED
    )
    return blocks * BLOCK if worth else 0


@dataclass
class Serving:
    """Requests come, decode and leave; each has some first blocks in common with the others and then its own."""

    mirror: SlotMirror = field(
        default_factory=lambda: SlotMirror(StateLayout(SLOTS, SLOTS, WIDTH), torch.device("cpu"))
    )
    running: list[tuple[Sequence, int]] = field(default_factory=list)
    next_block: int = 5000

    def own_block(self) -> int:
        self.next_block += 1
        return self.next_block

    def come(self, shared_blocks: int, tokens: int) -> None:
        slot = min(set(range(SLOTS)) - {sequence.slot for sequence, _ in self.running})
        start = shared_blocks * BLOCK + tokens
        table = COMMON[:shared_blocks]
        table += [self.own_block() for _ in range(start // BLOCK + 1 - shared_blocks)]
        self.running.append((Sequence(REQUEST, IDS, start, block_table=table, slot=slot), start))

    def leave(self, number: int) -> None:
        self.mirror.forget(self.running.pop(number)[0].slot)

    def step(self) -> tuple[ScheduledRow, ...]:
        rows = tuple(ScheduledRow(sequence, start, 1, True) for sequence, start in self.running)
        for sequence, start in self.running:
            if start // BLOCK == len(sequence.block_table):
                sequence.block_table.append(self.own_block())
        self.running = [(sequence, start + 1) for sequence, start in self.running]
        self.mirror.decode_rows(rows, len(rows))
        self.mirror.updates.clear()
        return rows


EVENTS = st.lists(
    st.tuples(st.sampled_from(["come", "come", "leave", "swap"]), st.integers(0, 30), st.integers(0, 130)),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(first=st.lists(st.integers(6, 30), min_size=6, max_size=20), events=EVENTS)
def test_equals_looking_anew(first: list[int], events: list[tuple[str, int, int]]) -> None:
    serving = Serving()
    sharing = SharedPrefix(serving.mirror, BLOCK)
    for blocks in first:
        serving.come(blocks, blocks % 5 * 40)
    for kind, number, tokens in [*events, ("come", 8, 0)]:
        for _ in range(3):
            rows = serving.step()
            assert sharing.tokens(rows, len(rows)) == slow_tokens(rows)
        if kind == "come" and len(serving.running) < SLOTS:
            serving.come(number, tokens)
        elif kind == "leave" and len(serving.running) > 1:
            serving.leave(number % len(serving.running))
        elif kind == "swap":
            serving.running.append(serving.running.pop(number % len(serving.running)))


def test_a_preempted_row_may_come_back_to_other_blocks() -> None:
    """The same sequence in the same slot and place of the step."""
    serving = Serving()
    sharing = SharedPrefix(serving.mirror, BLOCK)
    for _ in range(9):
        serving.come(20, 1)
    assert sharing.tokens(serving.step(), 9) == 20 * BLOCK
    sequence = serving.running[8][0]
    serving.mirror.forget(sequence.slot)
    sequence.block_table = [serving.own_block() for _ in sequence.block_table]
    assert sharing.tokens(serving.step(), 9) == 0


def test_tables_are_compared_only_when_rows_change(monkeypatch: pytest.MonkeyPatch) -> None:
    serving = Serving()
    sharing = SharedPrefix(serving.mirror, BLOCK)
    for _ in range(9):
        serving.come(20, 1)
    searches = []
    find = sharing._find
    monkeypatch.setattr(sharing, "_find", lambda rows: searches.append(len(rows)) or find(rows))
    for _ in range(200):  # the tables grow meanwhile
        sharing.tokens(serving.step(), 9)
    assert searches == [9]
    serving.leave(8)
    assert sharing.tokens(serving.step(), 8) == 20 * BLOCK
    assert searches == [9, 8]
