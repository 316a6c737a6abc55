"""Grammars that take all stack, memory or time of whoever compiles them cost a process that holds nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from adapters.call_grammars import forced_call_grammar
from adapters.grammar_examiner import Trial, Verdict, examine
from adapters.grammar_trials import FATAL, GrammarTrials, TrialTimeoutError
from adapters.grammars import response_format_grammar, structured_outputs_grammar
from engine.errors import EngineOverloadedError, RequestError
from tests.engine.sampling.test_grammar_mask import compiler, walk

DEEP_CHAIN = {
    "$defs": {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(3000)}
    | {"d3000": {"type": "integer"}},
    "$ref": "#/$defs/d0",
}
"""Each definition refers to the next: no nesting that could be counted, yet the library recurses."""
ENDLESS = {"type": "integer", "multipleOf": 99_999_989}
GOOD = Trial("regex", "[ab]+")


@pytest.fixture
def trials() -> Iterator[GrammarTrials]:
    trials = GrammarTrials()
    yield trials
    trials.close()


def schema(value: dict[str, Any]) -> Trial:
    return Trial("json_schema", json.dumps(value))


@pytest.mark.parametrize(
    "trial",
    [
        schema(DEEP_CHAIN),
        Trial("grammar", "start: r0\n" + "\n".join(f'r{i}: "x"? r{i + 1}' for i in range(5000)) + '\nr5000: "a"'),
    ],
    ids=["definitions", "rules"],
)
def test_what_overflows_the_stack_ends_a_process_and_not_ours(trials: GrammarTrials, trial: Trial) -> None:
    assert trials.verdict(trial, 60.0) == FATAL
    assert trials.verdict(GOOD, 60.0) == Verdict()


def test_what_never_ends_is_ended(trials: GrammarTrials) -> None:
    assert trials.verdict(GOOD, 60.0) == Verdict()  # the process is there
    began_s = time.monotonic()
    with pytest.raises(TrialTimeoutError):
        trials.verdict(schema(ENDLESS), 0.2)
    assert time.monotonic() - began_s >= 0.2
    assert trials.verdict(Trial("regex", "[cd]+"), 60.0) == Verdict()


def test_those_that_hang_leave_the_others_a_place() -> None:
    trials = GrammarTrials(max_processes=2)
    try:
        thread = threading.Thread(target=lambda: hang(trials, 0))
        thread.start()
        assert trials.verdict(GOOD, 60.0) == Verdict()
        thread.join()
    finally:
        trials.close()


def test_a_process_that_has_gone_meanwhile_is_replaced(trials: GrammarTrials) -> None:
    trials.verdict(GOOD, 60.0)
    (idle,) = trials._idle
    idle._process.kill()
    idle._process.wait()
    assert trials.verdict(Trial("regex", "[cd]+"), 60.0) == Verdict()


def test_a_process_that_has_become_large_is_not_kept(trials: GrammarTrials) -> None:
    large = {"type": "object", "properties": {f"p{i}": {"enum": [f"{i}"] * 40} for i in range(900)}}
    trials.verdict(schema(large), 60.0)
    assert trials.verdict(GOOD, 60.0) == Verdict()


def test_nobody_waits_for_ever_and_what_is_known_does_not_wait() -> None:
    trials = GrammarTrials(max_processes=1)
    try:
        assert trials.verdict(GOOD, 60.0) == Verdict()
        thread = threading.Thread(target=lambda: hang(trials, 0))
        thread.start()
        time.sleep(0.1)
        assert trials.verdict(GOOD, 0.0) == Verdict()
        with pytest.raises(EngineOverloadedError):
            trials.verdict(Trial("regex", "x"), 0.05)
        thread.join()
    finally:
        trials.close()


def hang(trials: GrammarTrials, number: int) -> None:
    with pytest.raises(TrialTimeoutError):
        trials.verdict(schema({**ENDLESS, "title": str(number)}), 0.6)


def test_a_long_chain_within_reason_is_no_crime() -> None:
    chain = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(100)}
    value = {"$defs": {**chain, "d100": {"type": "integer"}}, "$ref": "#/$defs/d0"}
    assert structured_outputs_grammar({"json": value}) is not None


def test_what_compiles_slowly_is_refused_before_the_engine_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.grammar_examiner.MAX_COMPILE_S", 0.0)
    assert "longer than" in examine(GOOD).reason


@pytest.mark.parametrize("tool_format", ["hermes", "qwen_xml"])
def test_all_tools_together_are_tried_too(tool_format: Any) -> None:
    """Each parameter is harmless, and there are no schemas to compile for texts in the XML format."""
    many = {f"p{i}": {"type": "string"} for i in range(30_000)}
    tool = {"function": {"name": "f", "parameters": {"type": "object", "properties": many}}}
    with pytest.raises(RequestError) as caught:
        forced_call_grammar(tool_format, [tool])
    assert caught.value.param == "tools"


def test_tools_with_large_enumerations_are_refused_by_name() -> None:
    values = {"type": "string", "enum": [f"value {i}" for i in range(200_000)]}
    tool = {"function": {"name": "f", "parameters": {"type": "object", "properties": {"a": values}}}}
    with pytest.raises(RequestError) as caught:
        forced_call_grammar("qwen_xml", [tool])
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    ("options", "follows", "breaks"),
    [
        ({"disable_any_whitespace": True}, '{"a":1,"b":2}', '{"a": 1'),
        ({"whitespace_pattern": "[ ]?"}, '{"a": 1,"b":2}', '{\n"a"'),
        ({"disable_additional_properties": True}, '{"a":1,"b":2}', '{"a":1,"b":2,'),
        ({}, '{"a": 1,\n"b":2, "c": null}', "["),
    ],
)
def test_options_of_structured_outputs_are_kept(options: dict[str, Any], follows: str, breaks: str) -> None:
    value = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    spec = structured_outputs_grammar({"json": {**value, "required": ["a", "b"]}, **options})
    assert spec is not None
    walk(compiler().start(spec), follows)
    with pytest.raises((RequestError, AssertionError)):
        walk(compiler().start(spec), breaks)


def test_clients_give_the_library_no_orders() -> None:
    value = {"type": "string", "not": {"const": "a"}, "x-guidance": {"lenient": True}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": value}}
    with pytest.raises(RequestError, match="not"):
        response_format_grammar(wanted)
    for strange in (5, [], {"lenient": "x"}):
        assert structured_outputs_grammar({"json": {"type": "null", "x-guidance": strange}}) is not None


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"disable_any_whitespace": 1}, "disable_any_whitespace"),
        ({"disable_additional_properties": "yes"}, "disable_additional_properties"),
        ({"whitespace_pattern": 5}, "whitespace_pattern"),
        ({"whitespace_pattern": "("}, "regex"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(RequestError, match=word) as caught:
        structured_outputs_grammar({"json": {"type": "object"}, **options})
    assert caught.value.param == "structured_outputs"


@pytest.mark.parametrize("field", [{"name": 5}, {"description": []}, {"strict": "yes"}], ids=str)
def test_fields_beside_the_schema_have_types_too(field: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, **field}}
    with pytest.raises(RequestError, match=next(iter(field))) as caught:
        response_format_grammar(wanted)
    assert caught.value.param == "response_format"


def test_objects_of_many_optional_properties_can_be_followed_or_are_refused_at_once() -> None:
    def properties(count: int) -> dict[str, Any]:
        return {"type": "object", "properties": {f"property{i}": {"type": "string"} for i in range(count)}}

    spec = structured_outputs_grammar({"json": properties(250)})
    assert spec is not None
    walk(compiler().start(spec), '{"property7": "a", "property200": "b", "property201": "c"}')
    with pytest.raises(RequestError, match="items"):
        structured_outputs_grammar({"json": properties(1500)})


def test_a_way_that_leads_nowhere_does_not_condemn_the_others() -> None:
    assert examine(Trial("lark", 'start: "z" X | "b"\nX: /a/ & /c/')) == Verdict()
