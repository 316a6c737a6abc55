"""Tokens that Lark grammars name: a stand-in for the trial, and the model's own afterwards."""

from __future__ import annotations

import time

import pytest

from adapters.grammar_tokens import check_named_tokens, with_stand_in
from adapters.grammars import after_thinking, structured_outputs_grammar
from engine.errors import RequestError
from engine.request import GrammarSpec
from tests.engine.sampling.test_grammar_mask import ENDS, TOKENIZER, allowed, compiler, walk


@pytest.mark.parametrize(
    ("lark", "replaced"),
    [
        ('start: "a" <|im_end|>', 'start: "a" <think>'),
        ("start: <tool_call> x </tool_call>", "start: <think> x <think>"),
        ("start: <[151645]>", "start: <[257]>"),
        ("start: <[5,7-9]> <[^151645,3]> <[*]>", "start: <[5,7-9]> <[^257,3]> <[*]>"),
        (f"start: <[{'9' * 5000}]>", "start: <[257]>"),
        ("start: <[x]> <[]>", "start: <[x]> <[]>"),
        (
            r'start: "<|im_end|>" /<[^>]*>|\/<b>/ "\"<c>" // <d>',
            r'start: "<|im_end|>" /<[^>]*>|\/<b>/ "\"<c>" // <d>',
        ),
        ("# <a>\nstart: <a>\n// <b>\n", "# <a>\nstart: <think>\n// <b>\n"),
        ('start: %json {"const": "<x>"} <y>', 'start: %json {"const": "<x>"} <think>'),
        ("start: <a b> <", "start: <a b> <"),
    ],
)
def test_only_what_names_a_token_is_replaced(lark: str, replaced: str) -> None:
    assert with_stand_in(lark) == replaced


@pytest.mark.parametrize("piece", ['"', '\\"', '"\\', "/", "\\/", "<", "<a", "<[1", '<"/', "//", "#"])
def test_hostile_grammars_are_read_in_one_go(piece: str) -> None:
    text = piece * (256_000 // len(piece))
    began_s = time.process_time()
    with_stand_in(text)
    with_stand_in('"' + text)
    assert time.process_time() - began_s < 2


@pytest.mark.parametrize(
    ("lark", "reply"),
    [
        ('start: "a" <|im_end|>', "a<|im_end|>"),
        ('start: "a" <[151644]> "b"', "a<|im_start|>b"),
        ('start: <tool_call> "x" </tool_call>', "<tool_call>x</tool_call>"),
    ],
)
def test_the_engine_takes_what_passes(lark: str, reply: str) -> None:
    spec = structured_outputs_grammar({"grammar": lark})
    assert spec is not None
    check_named_tokens(spec, TOKENIZER)
    assert walk(compiler().start(after_thinking(spec, "open")), f"well</think>{reply}").finished
    state = walk(compiler().start(spec), reply)
    assert state.finished and allowed(state) <= set(ENDS)


@pytest.mark.parametrize(
    ("lark", "token"),
    [
        ("start: <nonsense>", "<nonsense>"),
        ("start: <[999999]>", "<[999999]>"),
        (f"start: <[5,{'9' * 5000}]>", "<[5,999"),
        ('start: "a" <|im_end|> <|IM_END|>', "<|IM_END|>"),
    ],
)
def test_what_the_model_does_not_have_is_named(lark: str, token: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_named_tokens(GrammarSpec("lark", lark, "grammar"), TOKENIZER)
    assert token in str(caught.value) and caught.value.param == "grammar"


@pytest.mark.parametrize(
    "lark", ["start: <[x]>", "start: <[]>", "start: <[9-5]>", "start: A\nA: <|im_end|>", "start: <a b>"]
)
def test_what_is_no_token_is_refused_without_the_model(lark: str) -> None:
    with pytest.raises(RequestError, match="Invalid grammar"):
        structured_outputs_grammar({"grammar": lark})


def test_text_of_other_kinds_names_nothing() -> None:
    for kind in ("regex", "json_schema", "choice"):
        check_named_tokens(GrammarSpec(kind, '"<nonsense>" <nonsense>'), TOKENIZER)  # type: ignore[arg-type]
