from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.reasoning import ReasoningSplitter, ThinkingState, thinking_state

_WORDS = ["<think>", "</think>", "<tool_call>", "\n", " ", "<", "</", "think>", "a", "你"]


def split(pieces: list[str], start: ThinkingState, call_tags: tuple[str, ...] = ()) -> tuple[str, str]:
    splitter = ReasoningSplitter(start, call_tags=call_tags)
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.finish()]
    return "".join(reasoning for reasoning, _ in parts), "".join(content for _, content in parts)


@pytest.mark.parametrize(
    ("start", "output", "reasoning", "content"),
    [
        ("auto", "<think>\nabc\n</think>\n\nHello", "abc", "Hello"),
        ("open", "\nabc\n</think>\n\nHello", "abc", "Hello"),
        ("open", "no end tag", "no end tag", ""),
        ("auto", "no tag at all", "", "no tag at all"),
        ("auto", " \n<think>a</think>b", "a", "b"),
        ("auto", "\n\n", "", "\n\n"),
        ("auto", "<thi", "", "<thi"),
        ("auto", "<think>\n\n</think>\n\nHello", "", "Hello"),
        ("closed", "Hello </think>", "", "Hello </think>"),
        ("closed", "\nHello", "", "\nHello"),
        ("open", "a\n\nb\n</think>\n", "a\n\nb", ""),
        ("open", "a </th", "a </th", ""),
        ("open", "a\n", "a", ""),
        ("open", "a</think>b</think>c", "a", "b</think>c"),
        ("open", "<think>\na</think>b", "<think>\na", "b"),
        ("open", "a <tool_call>x", "a ", "<tool_call>x"),
    ],
)
def test_what_is_thought_and_what_is_said(start: ThinkingState, output: str, reasoning: str, content: str) -> None:
    for pieces in ([output], list(output)):
        assert split(pieces, start, ("<tool_call>",)) == (reasoning, content)


def test_calls_in_thoughts_are_thoughts_where_no_calls_are_read() -> None:
    assert split(["a <tool_call>x</think>b"], "open") == ("a <tool_call>x", "b")


@given(
    words=st.lists(st.sampled_from(_WORDS), max_size=12),
    cuts=st.sets(st.integers(0, 60)),
    start=st.sampled_from(["open", "auto", "closed"]),
)
def test_every_chunking_gives_the_whole_result(words: list[str], cuts: set[int], start: ThinkingState) -> None:
    text = "".join(words)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    whole = split([text], start, ("<tool_call>",))
    assert split([text[a:b] for a, b in pairwise(edges)], start, ("<tool_call>",)) == whole
    assert split(list(text), start, ("<tool_call>",)) == whole


@pytest.mark.parametrize(
    ("tail", "state"),
    [
        ("assistant\n", "auto"),
        ("assistant\n<think>\n", "open"),
        ("assistant\n<think>\n\n</think>\n\n", "closed"),
        ("assistant\n<think>\n\n</think>\n\nThe answer", "closed"),
        ("assistant\n<think>\nFirst", "open"),
        ("", "auto"),
    ],
)
def test_the_state_a_prompt_ends_in(tail: str, state: str) -> None:
    assert thinking_state(tail) == state
