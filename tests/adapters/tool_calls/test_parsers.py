"""Both tool-call parsers through one harness: cases, leniency, and equal results for every chunking."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.tool_calls import tool_parser_factory
from adapters.tool_calls.base import ToolCallParser

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "$defs": {"Point": {"type": "object"}},
                "properties": {
                    "n": {"type": "integer"},
                    "s": {"type": "string"},
                    "b": {"type": "boolean"},
                    "o": {"type": "object"},
                    "x": {"type": "number"},
                    "a": {"type": "array"},
                    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "either": {"type": ["integer", "string"]},
                    "point": {"$ref": "#/$defs/Point"},
                    "choice": {"enum": [1, 2]},
                    "bad": {"$ref": "#/$defs/Missing"},
                },
            },
        },
    }
]


@dataclass
class Seen:
    """All deltas of one output put together, as a client does it."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)


def run(new: Callable[[], ToolCallParser], pieces: Sequence[str], *, complete: bool = True) -> Seen:
    parser, seen = new(), Seen()
    outputs = [parser.feed(piece) for piece in pieces] + [parser.finish(complete=complete)]
    for text, deltas in outputs:
        seen.content += text
        for delta in deltas:
            if delta.id is not None:
                assert (delta.index, delta.arguments) == (len(seen.calls), "")
                assert delta.name
                seen.ids.append(delta.id)
                seen.calls.append((delta.name, ""))
            else:
                assert delta.index == len(seen.calls) - 1
                assert delta.name is None
                name, arguments = seen.calls[-1]
                seen.calls[-1] = name, arguments + delta.arguments
                seen.pieces.append(delta.arguments)
    assert parser.num_calls == len(seen.calls) == len(set(seen.ids))
    return seen


def hermes() -> ToolCallParser:
    return tool_parser_factory("hermes", TOOLS)()


def xml() -> ToolCallParser:
    return tool_parser_factory("qwen_xml", TOOLS)()


CALL = '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'
ONE = [("f", '{"n": 1}')]

HERMES: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("plain text ", "plain text ", []),
    (CALL, "", ONE),
    ("text\n" + CALL, "text", ONE),
    (CALL + "\n" + CALL, "", ONE * 2),
    (CALL + "\nand more", "\nand more", ONE),
    ('<tool_call>{"name":"f","arguments":{"n":1}}</tool_call>', "", [("f", '{"n":1}')]),
    ('<tool_call>\n{"name": "f", "parameters": {"n": 1}}\n</tool_call>', "", ONE),
    ('<tool_call>\n{"name": "f", "arguments": "{\\"n\\": 1}"}\n</tool_call>', "", ONE),
    (
        '<tool_call>\n{"name": "f", "arguments": "{\\"s\\": \\"\\u4f60\\ud83d\\ude00\\"}"}\n</tool_call>',
        "",
        [("f", '{"s": "你😀"}')],
    ),
    ('<tool_call>\n{"arguments": {"n": 1}, "name": "f"}\n</tool_call>', "", ONE),
    ('<tool_call>\n{"type": "function", "function": {"name": "f", "arguments": {"n": 1}}}\n</tool_call>', "", ONE),
    ('<tool_call>\n{"name": "f"}\n</tool_call>', "", [("f", "{}")]),
    ('<tool_call>\n{"name": "f", "arguments": null}\n</tool_call>', "", [("f", "{}")]),
    ('<tool_call>\n{"name": "f", "arguments": ""}\n</tool_call>', "", [("f", "{}")]),
    ('<tool_call>\n{"name": "f", "arguments": {}, "id": {"x": "}"}}\n</tool_call>', "", [("f", "{}")]),
    ('<tool_call>\n{"name": "unknown tool", "arguments": {}}\n</tool_call>', "", [("unknown tool", "{}")]),
    (
        '<tool_call>\n{"name": "f", "arguments": {"s": "</tool_call> } \\" <tool_call>"}}\n</tool_call>',
        "",
        [("f", '{"s": "</tool_call> } \\" <tool_call>"}')],
    ),
    ('<tool_call>\n{"name": "f", "arguments": {"n": 1}}', "", ONE),
    ('<tool_call>\n{"name": "f", "arguments": {"n": 1', "", ONE),
    ('<tool_call>\n{"name": "f", "arguments": {"n": [{"s": "x', "", [("f", '{"n": [{"s": "x"}]}')]),
    ('<tool_call>\n{"name": "f", "arguments": {"n": 1}\n</tool_call>', "", ONE),
    ('<tool_call>\n{"name": "f", "arguments": {"n": 1\n</tool_call>\nok', "\nok", [("f", '{"n": 1\n}')]),
    ('<tool_call>\n{"name": "f", "arguments": {"n": 1}}}\n</tool_call>', "", ONE),
    (
        '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>',
        "",
        ONE * 2,
    ),
    (
        '<tool_call>\n[{"name": "f", "arguments": {"n": 1}}, {"name": "f", "arguments": {"n": 1}}]\n</tool_call>',
        "",
        ONE * 2,
    ),
    (
        '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n<tool_call>\n{"name": "f", "arguments": {"n": 1}}',
        "",
        ONE * 2,
    ),
    ("<tool_call>\nnot json\n</tool_call>", "<tool_call>\nnot json\n</tool_call>", []),
    ('<tool_call>\n{"name": 5}\n</tool_call>', '<tool_call>\n{"name": 5}\n</tool_call>', []),
    ('a <tool_call>\n{broken "x"}\n</tool_call>', 'a <tool_call>\n{broken "x"}\n</tool_call>', []),
    ('<tool_call>\n{"name": "f", ', '<tool_call>\n{"name": "f", ', []),
    ("<tool_call>", "<tool_call>", []),
    ("a <tool", "a <tool", []),
    ("a < b <= c <tool_cal x", "a < b <= c <tool_cal x", []),
]

XML_CALL = "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"


def _value(parameter: str, text: str) -> str:
    return f"<tool_call>\n<function=f>\n<parameter={parameter}>\n{text}\n</parameter>\n</function>\n</tool_call>"


XML: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("plain text ", "plain text ", []),
    (XML_CALL, "", ONE),
    ("ok\n" + XML_CALL, "ok", ONE),
    (XML_CALL + "\n" + XML_CALL, "", ONE * 2),
    (
        "<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n<parameter=s>\n007\n</parameter>\n<parameter=b>\n"
        'true\n</parameter>\n<parameter=o>\n{"k": [1]}\n</parameter>\n</function>\n</tool_call>',
        "",
        [("f", '{"n": 3, "s": "007", "b": true, "o": {"k": [1]}}')],
    ),
    (
        "<tool_call>\n<function=g>\n<parameter=zz>\n3\n</parameter>\n</function>\n</tool_call>",
        "",
        [("g", '{"zz": "3"}')],
    ),
    (_value("n", "abc"), "", [("f", '{"n": "abc"}')]),
    (_value("zz", "3"), "", [("f", '{"zz": "3"}')]),
    (_value("s", 'a <b> & "c"\n\nd\\\n'), "", [("f", '{"s": "a <b> & \\"c\\"\\n\\nd\\\\\\n"}')]),
    (_value("s", "see <parameter=x> and </function>"), "", [("f", '{"s": "see <parameter=x> and </function>"}')]),
    (_value("x", "-1.5e3"), "", [("f", '{"x": -1500.0}')]),
    (_value("x", "NaN"), "", [("f", '{"x": "NaN"}')]),
    (_value("b", "False"), "", [("f", '{"b": false}')]),
    (_value("a", '[1, "二"]'), "", [("f", '{"a": [1, "二"]}')]),
    (_value("maybe", "null"), "", [("f", '{"maybe": null}')]),
    (_value("maybe", "nullable"), "", [("f", '{"maybe": "nullable"}')]),
    (_value("maybe", "nu"), "", [("f", '{"maybe": "nu"}')]),
    (_value("either", "5"), "", [("f", '{"either": 5}')]),
    (_value("either", "five"), "", [("f", '{"either": "five"}')]),
    (_value("point", '{"x": 1}'), "", [("f", '{"point": {"x": 1}}')]),
    (_value("choice", "2"), "", [("f", '{"choice": 2}')]),
    (_value("bad", "2"), "", [("f", '{"bad": "2"}')]),
    (_value("s", ""), "", [("f", '{"s": ""}')]),
    ("<function=f>\n<parameter=n>\n1\n</parameter>\n</function>", "", ONE),
    ("<tool_call>\n<function=f>\n</function>\n</tool_call>", "", [("f", "{}")]),
    ("<tool_call><function=f></function></tool_call>", "", [("f", "{}")]),
    ("<tool_call><function=f><parameter=n>1</parameter></function></tool_call>", "", ONE),
    ('<tool_call>\n<function="f">\n<parameter="n">\n1\n</parameter>\n</function>\n</tool_call>', "", ONE),
    ("<tool_call>\n<function=my tool>\n</function>\n</tool_call>", "", [("my tool", "{}")]),
    ("<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n", "", ONE),
    ("<tool_call>\n<function=f>\n<parameter=n>\n1", "", ONE),
    ("<tool_call>\n<function=f>\n<parameter=n>\n1\n</function>\n</tool_call>", "", ONE),
    (
        "<tool_call>\n<function=f>\n<parameter=n>\n1\n<parameter=s>\nx\n</tool_call>",
        "",
        [("f", '{"n": 1, "s": "x"}')],
    ),
    ("<tool_call>\n<function=f>\n</function>\n<function=f>\n</function>\n</tool_call>", "", [("f", "{}")] * 2),
    ("<tool_call>\nnothing", "<tool_call>\nnothing", []),
    ("<tool_call>\n<function=\n>", "<tool_call>\n<function=\n>", []),
    ("a <function", "a <function", []),
    ("a < b", "a < b", []),
]
CASES = [(hermes, *case) for case in HERMES] + [(xml, *case) for case in XML]


@pytest.mark.parametrize(("new", "output", "content", "calls"), CASES)
def test_whole_and_character_by_character(
    new: Callable[[], ToolCallParser], output: str, content: str, calls: list[tuple[str, str]]
) -> None:
    for pieces in ([output], list(output)):
        seen = run(new, pieces)
        assert (seen.content, seen.calls) == (content, calls)


_WORDS = [
    "<tool_call>", "</tool_call>", "\n", " ", "{", "}", '{"name": "f", "arguments": ', '"', "\\", "\\u", "d83d", "1",
    ",", ":", "[", "]", "null", '"name"', '"arguments"', "<function=f>", "<function=", "</function>", "<parameter=s>",
    "<parameter=n>", "<parameter=maybe>", "</parameter>", "<", ">", "你", "nu", "text", CALL, XML_CALL,
]  # fmt: skip


@given(
    words=st.lists(st.sampled_from(_WORDS), max_size=14),
    cuts=st.sets(st.integers(0, 200), max_size=12),
    complete=st.booleans(),
    which=st.sampled_from(["hermes", "qwen_xml"]),
)
def test_every_chunking_gives_the_whole_result(words: list[str], cuts: set[int], complete: bool, which: Any) -> None:
    text = "".join(words)
    new = tool_parser_factory(which, TOOLS)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    whole = run(new, [text], complete=complete)
    chunked = run(new, [text[a:b] for a, b in pairwise(edges)], complete=complete)
    single = run(new, list(text), complete=complete)
    assert (whole.content, whole.calls) == (chunked.content, chunked.calls) == (single.content, single.calls)


_ESCAPED = ["\\ud83d", "\\ude00", "\\n", '\\"', "\\\\", "\\u4f60", "a"]


@given(st.lists(st.sampled_from(_ESCAPED), max_size=6))
def test_arguments_in_a_string_are_unescaped_as_python_does_it(parts: list[str]) -> None:
    """A surrogate without its other half is one U+FFFD and harms nothing around it."""
    text = json.loads(f'"{"".join(parts)}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    output = f'<tool_call>\n{{"name": "f", "arguments": "{{{"".join(parts)}}}"}}\n</tool_call>'
    for pieces in ([output], list(output)):
        assert run(hermes, pieces).calls == [("f", f"{{{text}}}")]


@given(words=st.lists(st.sampled_from(_WORDS), max_size=14), which=st.sampled_from(["hermes", "qwen_xml"]))
def test_text_without_a_call_is_kept_to_the_letter(words: list[str], which: Any) -> None:
    text = "".join(words)
    seen = run(tool_parser_factory(which, TOOLS), [text])
    if not seen.calls:
        assert seen.content == text


@given(
    st.dictionaries(
        st.sampled_from(["s", "zz"]), st.text(max_size=12).filter(lambda text: "<" not in text), max_size=2
    )
)
def test_xml_strings_come_back_as_they_were(values: dict[str, str]) -> None:
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    seen = run(xml, list(f"<tool_call>\n<function=f>\n{body}</function>\n</tool_call>"))
    assert json.loads(seen.calls[0][1]) == values


def test_arguments_are_streamed_as_they_arrive() -> None:
    seen = run(hermes, ['<tool_call>\n{"name": "f", "arguments": {"s": "', "Par", "is", '"}}', "\n</tool_call>"])
    assert seen.pieces == ['{"s": "', "Par", "is", '"}']
    seen = run(xml, ["<tool_call>\n<function=f>\n<parameter=s>\n", "Par", "is", "\n</parameter>", "\n</function>"])
    assert seen.pieces == ['{"s": ', '"', "Par", "is", '"', "}"]


@pytest.mark.parametrize(
    ("new", "cut", "arguments"),
    [
        (hermes, '<tool_call>\n{"name": "f", "arguments": {"s": "Par', '{"s": "Par'),
        (xml, "<tool_call>\n<function=f>\n<parameter=s>\nPar", '{"s": "Par'),
        (xml, "<tool_call>\n<function=f>\n<parameter=n>\n12", '{"n": '),
    ],
)
def test_a_reply_cut_by_length_does_not_pass_for_whole(
    new: Callable[[], ToolCallParser], cut: str, arguments: str
) -> None:
    assert run(new, [cut], complete=False).calls == [("f", arguments)]


@pytest.mark.parametrize("which", ["hermes", "qwen_xml"])
@pytest.mark.parametrize(
    "word", ["<", "<tool_call>", "<tool_call>\n{", "\n", "{", "<function=", "<parameter=s>\n", '"\\']
)
def test_hostile_output_takes_linear_time(which: Any, word: str) -> None:
    start = "<tool_call>\n<function=f>\n<parameter=o>\n" if which == "qwen_xml" else '<tool_call>\n{"x": "'
    for opening in ("", start):
        started = time.process_time()
        run(tool_parser_factory(which, TOOLS), [opening, *[word] * 20_000], complete=True)
        assert time.process_time() - started < 5.0
