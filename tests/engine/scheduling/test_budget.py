"""The size of steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runner.batch import StepSizes
from engine.scheduling.budget import DRAIN_STEPS, StepBudget

BUDGET = StepBudget(8192, StepSizes(free=192, busy=1024))


@pytest.mark.parametrize(
    ("decode_rows", "prompts", "expected"),
    [
        (0, [], 1024),
        (0, [300], 1024),
        (8, [300], 192),
        (8, [300, 212], 192),
        (8, [300, 213], 1024),
        (180, [300], 180 + 64),
        (64, [8000], 1024),
        (700, [8000], 700 + 512),
        (0, [8000] * 4, 1024),
        (10, [8000] * 13, 1024),
        (10, [300] * 20, 300 * 20 // DRAIN_STEPS + 10),
        (10, [500] * 20, 384 * 20 // DRAIN_STEPS + 10),
        (10, [500] * 1000, 8192),
    ],
)
def test_steps_grow_with_the_queue(decode_rows: int, prompts: list[int], expected: int) -> None:
    assert BUDGET.choose(decode_rows, prompts) == expected


def test_without_sizes_a_step_is_as_large_as_allowed() -> None:
    assert StepBudget(512).choose(3, [1, 2]) == 512
    assert StepBudget(512, StepSizes(192, 1024)).choose(3, [1, 2]) == 512


@given(st.integers(0, 300), st.lists(st.integers(1, 9000), max_size=40), st.integers(1, 9000), st.integers(1, 9000))
def test_every_decode_row_has_its_token_and_prompts_go_on(
    decode_rows: int, prompts: list[int], most: int, busy: int
) -> None:
    chosen = StepBudget(most, StepSizes(192, busy)).choose(decode_rows, prompts)
    assert min(most, decode_rows + 1) <= chosen <= most
