"""Clients that were refused together do not come back together."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from oai_server.errors import shutting_down, unavailable
from oai_server.retry import retry_after


@pytest.mark.parametrize(
    ("estimate_s", "draw", "seconds", "milliseconds"),
    [
        (0.0, 0.0, "1", "1000"),
        (1.0, 0.0, "1", "1000"),
        (1.0, 0.49, "1", "1490"),
        (1.0, 0.75, "2", "1750"),
        (2.0, 0.5, "2", "2500"),
        (2.0, 0.999, "3", "2999"),
        (30.0, 0.0, "30", "30000"),
        (30.0, 0.999, "45", "44985"),
    ],
)
def test_the_wait_lies_between_the_estimate_and_half_as_much_again(
    estimate_s: float, draw: float, seconds: str, milliseconds: str
) -> None:
    assert retry_after(estimate_s, lambda: draw) == {"retry-after": seconds, "retry-after-ms": milliseconds}


def test_a_crowd_is_spread_evenly() -> None:
    draw = random.Random(0).random
    headers = [retry_after(4.0, draw) for _ in range(4000)]
    by_quarter = Counter(min((int(each["retry-after-ms"]) - 4000) // 500, 3) for each in headers)
    assert set(by_quarter) == {0, 1, 2, 3}
    assert all(900 < count < 1100 for count in by_quarter.values())
    by_second = Counter(each["retry-after"] for each in headers)
    assert set(by_second) == {"4", "5", "6"} and min(by_second.values()) > 800


def test_every_refusal_that_may_be_tried_again_has_both() -> None:
    for error in (unavailable("no engine"), unavailable("no engine", 5.0), shutting_down()):
        assert error.headers.keys() >= {"retry-after", "retry-after-ms"}
    assert shutting_down().headers["connection"] == "close"
