from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.detokenizer import Detokenizer
from tests.support.qwen_data import qwen_data, qwen_tokenizer

qwen_data()

_BYTE_IDS = st.integers(0, 255)
_ANY_IDS = st.one_of(
    _BYTE_IDS, st.integers(0, 151_660), st.sampled_from([51461, 117, 151644, 151645, 151667, 152000])
)


def _one_shot(ids: list[int], *, skip: bool) -> str:
    """The reference: all bytes at once, but for an unfinished character at the end."""
    tokenizer = qwen_tokenizer("qwen3")
    data = b"".join(tokenizer.token_bytes(i) for i in ids if not (skip and i in tokenizer.special_ids))
    for cut in range(min(3, len(data)), 0, -1):
        tail = data[-cut:]
        try:
            tail.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and error.start == 0:
                return data[:-cut].decode("utf-8", "replace")
    return data.decode("utf-8", "replace")


@given(ids=st.lists(_ANY_IDS, max_size=40), cuts=st.sets(st.integers(0, 40)), skip=st.booleans())
def test_every_chunking_gives_the_one_shot_text(ids: list[int], cuts: set[int], skip: bool) -> None:
    detokenizer = Detokenizer(qwen_tokenizer("qwen3"), skip_special_tokens=skip)
    edges = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    pieces = [detokenizer.feed(ids[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join(pieces) == _one_shot(ids, skip=skip)


@given(st.text(max_size=30))
def test_pieces_of_good_text_are_whole_characters(text: str) -> None:
    tokenizer = qwen_tokenizer("qwen3")
    detokenizer = Detokenizer(tokenizer)
    id_of = {tokenizer.token_bytes(i): i for i in range(256)}
    ids = [id_of[bytes([byte])] for byte in text.encode()]
    pieces = [detokenizer.feed_one(token_id) for token_id in ids]
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == list(text)


def test_half_a_character_waits_and_is_dropped_at_the_end() -> None:
    detokenizer = Detokenizer(qwen_tokenizer("qwen3"))
    assert detokenizer.feed([51461]) == " "
    assert detokenizer.feed([117]) == "根"
    assert detokenizer.feed([51461]) == " "


def test_bytes_proven_wrong_become_a_replacement_character() -> None:
    detokenizer = Detokenizer(qwen_tokenizer("qwen3"))
    assert detokenizer.feed([51461]) == " "
    assert detokenizer.feed([9707]) == "�Hello"


def test_a_character_that_the_prompt_began_is_finished() -> None:
    detokenizer = Detokenizer(qwen_tokenizer("qwen3"), prompt_token_ids=[9707, 51461])
    assert detokenizer.feed([117]) == "根"


@pytest.mark.parametrize(("keep", "shown"), [(frozenset(), "Hello"), (frozenset({151645}), "<|im_end|>Hello")])
def test_special_tokens_can_be_kept_one_by_one(keep: frozenset[int], shown: str) -> None:
    detokenizer = Detokenizer(qwen_tokenizer("qwen3"), keep_ids=keep)
    assert detokenizer.feed([151644, 151645, 9707]) == shown
