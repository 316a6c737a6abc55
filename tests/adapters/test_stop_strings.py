from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.stop_strings import StopStrings

_TEXT = st.text(alphabet="ab<", max_size=24)
_STOPS = st.lists(st.text(alphabet="ab<", min_size=1, max_size=5), min_size=1, max_size=4)


def _reference(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Character by character: the first end at which some stop is complete, the first listed one."""
    for end in range(1, len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return text[: end if include else end - len(stop)], stop
    return text, None


@given(text=_TEXT, stops=_STOPS, include=st.booleans(), cuts=st.lists(st.integers(0, 24)))
def test_every_chunking_ends_where_the_reference_ends(
    text: str, stops: list[str], include: bool, cuts: list[int]
) -> None:
    watcher = StopStrings(stops, include_in_output=include)
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    shown = "".join(watcher.feed(text[a:b]) for a, b in itertools.pairwise(edges)) + watcher.finish()
    assert (shown, watcher.matched) == _reference(text, stops, include)


@given(text=_TEXT, stops=_STOPS)
def test_nothing_is_held_that_cannot_become_a_stop(text: str, stops: list[str]) -> None:
    watcher = StopStrings(stops)
    shown = "".join(map(watcher.feed, text))
    if watcher.matched is None:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_across_pieces_never_leaks() -> None:
    watcher = StopStrings(["STOP"])
    assert [watcher.feed(piece) for piece in ("a S", "T", "ST", "OP", "more")] == ["a ", "", "ST", "", ""]
    assert watcher.matched == "STOP"


def test_what_completes_before_it_counts_does_not_count_later() -> None:
    watcher = StopStrings(["ab", "abab"])
    assert watcher.feed("ab", armed=False) == ""
    assert watcher.feed("x") == "abx"
    assert watcher.feed("ab", armed=False) + watcher.feed("ab") == "ab"
    assert watcher.matched == "ab"


@pytest.mark.parametrize("length", [20_000])
def test_long_hostile_stops_stay_cheap(length: int) -> None:
    watcher = StopStrings(["a" * length + "b"])
    shown = sum(len(watcher.feed("a")) for _ in range(length))
    assert shown + len(watcher.finish()) == length
