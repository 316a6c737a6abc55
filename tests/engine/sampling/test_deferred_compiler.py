"""Grammars that are compiled by threads: once each, and none behind another that takes long."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import oai_server
from engine.errors import RequestError
from engine.request import GrammarSpec
from engine.sampling import grammar_mask
from engine.sampling.deferred_compiler import DeferredCompiler

MODEL = Path(oai_server.__file__).parent / "demo_model"
FIRST, SECOND = GrammarSpec("regex", "a+b"), GrammarSpec("regex", "c+d")
PATIENCE_S = 60.0


def test_a_grammar_is_compiled_once_and_known_from_then_on() -> None:
    compiler = DeferredCompiler(MODEL)
    first = compiler.begin(FIRST).result(PATIENCE_S)
    known = compiler.begin(FIRST)
    assert known.done()
    assert known.result() is first
    assert not compiler.begin(SECOND).done()
    compiler.close()


def test_what_a_request_keeps_is_known_as_long_as_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a hundred others have come in between."""
    compiler, real, compiled = DeferredCompiler(MODEL), grammar_mask._matcher, list[str]()
    monkeypatch.setattr(grammar_mask, "_matcher", lambda *a: compiled.append(a[1].text) or real(*a))
    specs = [GrammarSpec("regex", f"x{number}") for number in range(grammar_mask.MAX_KEPT + 36)]
    kept = [compiler.begin(spec).result(PATIENCE_S) for spec in specs]
    for spec in specs:
        compiler.start(spec)
    assert len(compiled) == len(specs)
    del kept
    compiler.start(specs[0])
    assert compiled[len(specs) :] == [specs[0].text]
    compiler.close()


def test_a_slow_grammar_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that are compiled meanwhile nor those that are known; asked for twice, it is compiled once."""
    compiler, real, slow, done = DeferredCompiler(MODEL), grammar_mask._matcher, list[str](), threading.Event()
    known = compiler.start(SECOND)

    def matcher(trie: object, spec: GrammarSpec) -> object:
        if spec == FIRST:
            slow.append(spec.text)
            assert done.wait(PATIENCE_S)
        return real(trie, spec)

    monkeypatch.setattr(grammar_mask, "_matcher", matcher)
    waiting = compiler.begin(FIRST)
    assert compiler.begin(FIRST) is waiting
    other = compiler.begin(GrammarSpec("regex", "e"))
    other.result(PATIENCE_S)
    assert compiler.start(SECOND).mask().tolist() == known.mask().tolist()
    assert not waiting.done()
    done.set()
    waiting.result(PATIENCE_S)
    compiler.start(FIRST)
    assert slow == [FIRST.text]
    compiler.close()


def test_what_is_no_grammar_fails_as_it_would_in_the_step(tmp_path: Path) -> None:
    for broken, folder in ((GrammarSpec("regex", "(("), MODEL), (FIRST, tmp_path)):
        compiler = DeferredCompiler(folder)
        future = compiler.begin(broken)
        with pytest.raises(RequestError) as refusal:
            future.result(PATIENCE_S)
        assert refusal.value.param == "response_format"
        compiler.close()
