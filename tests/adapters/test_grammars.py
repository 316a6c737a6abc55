from __future__ import annotations

import json
import time
from typing import Any

import pytest

from adapters.backend import ChatPrompt, GenerationParams, GenerationRequest
from adapters.call_grammars import forced_call_grammar, possible_call_grammar
from adapters.grammars import after_thinking, response_format_grammar, structured_outputs_grammar
from adapters.reply_grammar import request_grammar
from adapters.tool_calls import tool_parser_factory
from engine.errors import RequestError
from engine.request import GrammarSpec
from tests.engine.sampling.test_grammar_mask import ENDS, SCHEMA, allowed, compiler, walk

SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": json.loads(SCHEMA)}}


def _format(schema: object, strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": schema}}


def test_no_form_asked_for() -> None:
    assert response_format_grammar(None) is None
    assert response_format_grammar({"type": "text"}) is None
    assert structured_outputs_grammar(None) is None


@pytest.mark.parametrize(
    ("response_format", "words"),
    [
        ("json_object", "must be one of"),
        ({"type": "xml"}, "must be one of"),
        ({"type": "json_schema"}, "must be provided"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "schema"),
        (_format(5), "must be an object"),
        (_format({"not": {}}), "not"),
        (_format({"if": {}, "then": {}}), "if"),
        (_format({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (_format({"$ref": "#/nope"}), "nope"),
        (_format({"$ref": "http://127.0.0.1:9/x"}), "does not fetch"),
        (_format(False), "[Uu]nsatisfiable|enum"),
        (_format({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}), "NoExtension|no reply"),
        (_format({"type": "bogus"}), "bogus"),
        (_format({"description": "x" * 300_000}), "larger"),
    ],
)
def test_what_cannot_be_enforced_is_named(response_format: object, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        response_format_grammar(response_format)
    assert caught.value.param == "response_format"


def test_deep_schemas_end_soon() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50_000):
        deep = {"properties": {"a": deep}}
    with pytest.raises(RequestError, match="nested"):
        response_format_grammar(_format(deep))
    while deep:
        deep = deep.popitem()[1]  # taken apart by hand: freeing it whole would recurse


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"enum": [f"option {i}" for i in range(2_000)]},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(500)}},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 2**64 - 1},
        {"type": "string", "minLength": 10**9},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "title": "T", "default": {}},
        {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    ],
)
def test_large_and_odd_schemas_end_soon(schema: object) -> None:
    started = time.process_time()
    try:
        response_format_grammar(_format(schema))
    except RequestError as error:
        assert "maxItems" in json.dumps(schema) or "minLength" in json.dumps(schema), error
    assert time.process_time() - started < 5.0


def test_without_strict_what_cannot_be_enforced_is_left_out() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    spec = response_format_grammar(_format(schema, strict=False))
    assert spec is not None
    assert walk(compiler().start(spec), "[1, 1]").finished
    with pytest.raises(RequestError, match="uniqueItems"):
        response_format_grammar(_format(schema))


@pytest.mark.parametrize(
    ("options", "reply"),
    [
        ({"json": json.loads(SCHEMA)}, '{"name": "x", "n": 1}'),
        ({"json": SCHEMA}, '{"name": "x", "n": 1}'),
        ({"json_object": True}, "{}"),
        ({"regex": "a/b+c"}, "a/bbc"),
        ({"choice": ['say "hi"', "no\n"]}, 'say "hi"'),
        ({"grammar": 'start: "yes" | "no"'}, "yes"),
        ({"grammar": 'root ::= "yes" | "no"'}, "no"),
    ],
)
def test_each_kind_of_structured_output(options: dict[str, Any], reply: str) -> None:
    spec = structured_outputs_grammar(options)
    assert spec is not None
    assert walk(compiler().start(spec), reply).finished


@pytest.mark.parametrize(
    "options",
    [
        5,
        {},
        {"json": {}, "regex": "a"},
        {"json": "{"},
        {"json_object": False},
        {"choice": []},
        {"choice": [1]},
        {"choice": [""]},
        {"choice": "ab"},
        {"regex": "("},
        {"regex": ""},
        {"grammar": "nonsense"},
        {"grammar": 'root ::= "a'},
        {"grammar": "start: start"},
        {"structural_tag": {}},
        {"regex": "a" * 300_000},
    ],
)
def test_malformed_structured_outputs(options: object) -> None:
    with pytest.raises(RequestError) as caught:
        structured_outputs_grammar(options)
    assert caught.value.param == "structured_outputs"


def test_the_form_begins_behind_the_thought() -> None:
    spec = GrammarSpec("json_schema", SCHEMA)
    answer = '{"name": "x", "n": 1}'
    assert after_thinking(spec, None) is spec
    assert after_thinking(spec, "closed") is spec
    opened = after_thinking(spec, "open")
    assert walk(compiler().start(opened), f'well, {{"name" is\n\nodd</think>\n\n{answer}').finished
    assert ENDS[0] not in allowed(walk(compiler().start(opened), "well"))
    free = after_thinking(spec, "auto")
    assert walk(compiler().start(free), answer).finished
    assert walk(compiler().start(free), f"<think>\nwell\n</think>\n\n{answer}").finished
    nested = after_thinking(after_thinking(GrammarSpec("choice", '["a"]'), None), "open")
    assert walk(compiler().start(nested), "x</think>a").finished


TOOLS = [
    {"function": {"name": "f", "parameters": json.loads(SCHEMA)}},
    {"function": {"name": "g"}},
    {
        "function": {
            "name": "h",
            "parameters": {
                "properties": {"s": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "o": {"$ref": "#/$defs/O"}},
                "required": ["s"],
                "$defs": {
                    "O": {"type": "object", "properties": {"k": {"type": "integer"}}, "additionalProperties": False}
                },
            },
        }
    },
]
F_HERMES = '<tool_call>\n{"name": "f", "arguments": {"name": "x", "n": 1}}\n</tool_call>'
F_XML = (
    "<tool_call>\n<function=f>\n<parameter=name>\nx\ny\n</parameter>\n<parameter=n>\n1\n</parameter>\n"
    "</function>\n</tool_call>"
)
H_XML = (
    "<tool_call>\n<function=h>\n<parameter=s>\n<b> & </parameter \n</parameter>\n<parameter=unit>\nF\n</parameter>\n"
    '<parameter=o>\n{"k": 1}\n</parameter>\n</function>\n</tool_call>'
)


@pytest.mark.parametrize(
    ("tool_format", "reply", "names"),
    [
        ("hermes", F_HERMES, ["f"]),
        ("hermes", F_HERMES + "\n" + F_HERMES, ["f", "f"]),
        ("hermes", '<tool_call>\n{"name": "g", "arguments": {"any": [1]}}\n</tool_call>', ["g"]),
        ("qwen_xml", F_XML, ["f"]),
        ("qwen_xml", "<tool_call>\n<function=g>\n</function>\n</tool_call>", ["g"]),
        ("qwen_xml", H_XML, ["h"]),
    ],
)
def test_forced_calls_are_calls_to_the_parser(tool_format: Any, reply: str, names: list[str]) -> None:
    state = walk(compiler().start(forced_call_grammar(tool_format, TOOLS)), reply)
    assert ENDS[0] in allowed(state)
    parser = tool_parser_factory(tool_format, TOOLS)()
    deltas = parser.feed(reply)[1] + parser.finish(complete=True)[1]
    assert [delta.name for delta in deltas if delta.name] == names
    single = walk(
        compiler().start(forced_call_grammar(tool_format, TOOLS, parallel=False)), reply.split("\n<tool")[0]
    )
    assert allowed(single) == set(ENDS)


@pytest.mark.parametrize(
    ("tool_format", "begin"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "arguments": '),
        ("hermes", '<tool_call>\n{"name": "g", "arguments": '),
        ("qwen_xml", "<tool_call>\n<function=f>\n<parameter=n"),
    ],
)
def test_forced_calls_leave_no_way_around_the_schema(tool_format: Any, begin: str) -> None:
    spec = forced_call_grammar(tool_format, TOOLS[:2])
    with pytest.raises((RequestError, AssertionError)):
        walk(compiler().start(spec), begin + "1")
    assert ENDS[0] not in allowed(compiler().start(spec))


@pytest.mark.parametrize(("tool_format", "call"), [("hermes", F_HERMES), ("qwen_xml", F_XML)])
def test_possible_calls_follow_free_text(tool_format: Any, call: str) -> None:
    spec = possible_call_grammar(tool_format, TOOLS)
    for reply in ("Hello {", f"Let me see.\n{call}", call):
        assert ENDS[0] in allowed(walk(compiler().start(spec), reply))
        thought = after_thinking(spec, "open")
        assert ENDS[0] in allowed(walk(compiler().start(thought), f"well\n</think>\n\n{reply}"))
    one = possible_call_grammar(tool_format, TOOLS, parallel=False)
    assert allowed(walk(compiler().start(one), f"Yes.{call}")) == set(ENDS)


@pytest.mark.parametrize("wrong", ['"name": "no_such', '"name": "f", "arguments": {"town"'])
def test_possible_calls_leave_no_way_around_the_schema(wrong: str) -> None:
    with pytest.raises((RequestError, AssertionError)):
        walk(compiler().start(possible_call_grammar("hermes", TOOLS[:1])), f"<tool_call>\n{{{wrong}")


def test_what_cannot_be_enforced_of_a_possible_call_is_left_out() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 1}}}, "required": ["a"]}
    tools = [{"function": {"name": "f", "strict": True, "parameters": schema}}]
    with pytest.raises(RequestError):
        forced_call_grammar("hermes", tools)
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert ENDS[0] in allowed(walk(compiler().start(possible_call_grammar("hermes", tools)), call))


def test_calls_that_are_left_to_the_model_have_a_grammar_when_a_tool_is_strict() -> None:
    messages = ({"role": "user", "content": "x"},)
    strict = tuple({**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS[:1])
    mixed, none = (*strict, *TOOLS[1:]), GenerationParams()

    def grammar(tools: Any, params: GenerationParams, tool_choice: str = "auto", form: Any = "hermes") -> Any:
        prompt = ChatPrompt(messages, tools=tools, tool_choice=tool_choice)
        return request_grammar(GenerationRequest("request", prompt, params), None, form)

    assert grammar(mixed, none) == possible_call_grammar("hermes", mixed)
    assert grammar(tuple(TOOLS), none) is grammar(mixed, none, "none") is grammar(mixed, none, form=None) is None
    reply = GrammarSpec("json_object", "")
    assert grammar(mixed, GenerationParams(grammar=reply)) == reply
