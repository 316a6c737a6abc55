"""A grammar is compiled once, however many sequences follow it, and each stands at its own place."""

from __future__ import annotations

import json
import time

import pytest

from engine.errors import RequestError
from engine.request import GrammarSpec
from engine.sampling import grammar_mask
from engine.sampling.grammar_mask import GrammarCompiler
from tests.engine.sampling.test_grammar_mask import ENDS, TOKENIZER, allowed, compiler, walk


def test_sequences_of_one_grammar_do_not_move_each_other() -> None:
    spec = GrammarSpec("regex", "(ab|cd)e")
    first, second = compiler().start(spec), compiler().start(spec)
    begin = allowed(first)
    walk(first, "ab")
    assert allowed(second) == begin != allowed(first)
    assert allowed(compiler().start(spec)) == begin
    assert walk(second, "cde").finished and not first.finished


def test_the_same_text_of_another_kind_is_another_grammar() -> None:
    assert allowed(compiler().start(GrammarSpec("regex", '"a"'))) != allowed(
        compiler().start(GrammarSpec("lark", 'start: "a"'))
    )


def test_a_grammar_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = GrammarCompiler(TOKENIZER, ENDS)
    compiled = []
    real = grammar_mask._matcher
    monkeypatch.setattr(
        grammar_mask, "_matcher", lambda trie, spec: (compiled.append(spec.text), real(trie, spec))[1]
    )
    for _ in range(128):
        mine.start(GrammarSpec("regex", "a+")).mask()
    assert compiled == ["a+"]
    for i in range(200):
        mine.start(GrammarSpec("regex", f"b{i}"))
    mine.start(GrammarSpec("regex", "a+"))
    assert compiled.count("a+") == 2 and len(mine._fresh) == grammar_mask.MAX_KEPT


def test_what_is_kept_is_bounded_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_mask, "MAX_KEPT_CHARS", 1000)
    mine = GrammarCompiler(TOKENIZER, ENDS)
    for i in range(20):
        mine.start(GrammarSpec("choice", json.dumps([f"{i}" + "x" * 300])))
    assert len(mine._fresh) == 3 and mine._kept_chars <= 1000


def test_what_cannot_be_compiled_is_not_kept() -> None:
    mine = GrammarCompiler(TOKENIZER, ENDS)
    with pytest.raises(RequestError):
        mine.start(GrammarSpec("regex", "("))
    assert not mine._fresh and mine._kept_chars == 0


def test_a_grammar_that_takes_too_long_ends_for_all_its_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = GrammarCompiler(TOKENIZER, ENDS)
    ambiguous = GrammarSpec("lark", 'start: e\ne: e e e | "" | /[a-z ,]/')
    states = [mine.start(ambiguous) for _ in range(64)]
    began_s = time.thread_time()
    failed = 0
    for _ in range(8):
        for state in states:
            try:
                state.mask()
                state.accept(TOKENIZER.encode("a")[0])
            except RequestError as error:
                assert "too long" in str(error) or "Too many items" in str(error)
                failed += 1
    assert failed > 64 and time.thread_time() - began_s < 3 * grammar_mask.MAX_COST_S
    plain = mine.start(GrammarSpec("regex", "a+"))
    monkeypatch.setattr(grammar_mask, "MAX_COST_S", 0.01)
    assert allowed(plain)
