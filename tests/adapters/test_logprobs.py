from __future__ import annotations

import math

from adapters.logprobs import position_logprobs, prompt_logprobs
from engine.request import TokenLogprobs
from tests.support.qwen_data import qwen_data, qwen_tokenizer

qwen_data()
TOKENIZER = qwen_tokenizer("qwen3")


def test_the_chosen_token_and_the_most_likely_ones() -> None:
    entry = TokenLogprobs(-3.0, 7, (9707, 51461), (-0.1, -math.inf))
    position = position_logprobs(TOKENIZER, 151645, entry, text_offset=5)
    assert (position.chosen.token, position.chosen.rank, position.text_offset) == ("<|im_end|>", 7, 5)
    assert [(top.token, top.rank, top.logprob) for top in position.top] == [
        ("Hello", 1, -0.1),
        (" \\xe6\\xa0", 2, -9999.0),
    ]
    assert position.top[1].token_bytes == b" \xe6\xa0"


def test_prompts_count_their_characters() -> None:
    ids = TOKENIZER.encode("a 根b")
    entries = [None, *[TokenLogprobs(-1.0, 1)] * (len(ids) - 1)]
    positions = prompt_logprobs(TOKENIZER, ids, entries)
    assert positions[0] is None
    assert len(positions) == len(ids)
    assert positions[-1] is not None
    assert positions[-1].text_offset == 3


def test_unknown_ids_have_no_text() -> None:
    position = position_logprobs(TOKENIZER, 151_900, TokenLogprobs(-1.0, 1))
    assert (position.chosen.token, position.chosen.token_bytes) == ("", b"")
