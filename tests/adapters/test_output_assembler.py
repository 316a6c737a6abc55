from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backend import ChoiceDelta, PositionLogprobs
from adapters.output_assembler import OutputAssembler, OutputPlan
from adapters.tool_calls import PARSERS, tool_parser_factory
from engine.request import FinishReason, TokenLogprobs
from tests.support.qwen_data import qwen_data, qwen_tokenizer

qwen_data()
TOKENIZER = qwen_tokenizer("qwen3")
EOS = 151645
PLAN = OutputPlan(TOKENIZER, end_token_ids=frozenset({EOS, 151643}), eos_token_ids=frozenset({EOS}))


@dataclass
class Reply:
    """A choice as a client has it in the end."""

    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    completion_tokens: int = 0
    reasoning_tokens: int = 0


def collect(deltas: list[ChoiceDelta]) -> Reply:
    reply = Reply()
    for delta in deltas:
        assert reply.finish_reason is None
        reply.content += delta.content
        reply.reasoning += delta.reasoning
        reply.token_ids += delta.token_ids
        reply.logprobs += delta.logprobs
        for call in delta.tool_calls:
            if call.id is not None:
                reply.calls.append([call.name or "", ""])
            reply.calls[call.index][1] += call.arguments
        reply.finish_reason, reply.stop_reason = delta.finish_reason, delta.stop_reason
    return reply


def run(
    plan: OutputPlan,
    text: str | list[int],
    sizes: list[int] | None = None,
    reason: FinishReason = "stop",
    logprobs: bool = False,
    whole: bool = False,
) -> Reply:
    """Feeds the text's tokens (and the eos after reason stop) in pieces of the given sizes, one by one by default."""
    ids = TOKENIZER.encode(text, control_tokens=True) if isinstance(text, str) else text
    ids = [*ids, EOS] if reason == "stop" else ids
    entries = [TokenLogprobs(-0.5, 1, (token_id,), (-0.5,)) for token_id in ids] if logprobs else []
    stop_id = EOS if reason == "stop" else None
    assembler = OutputAssembler(0, plan)
    deltas: list[ChoiceDelta | None] = []
    at = 0
    if whole:
        deltas.append(assembler.finish(reason, stop_id, ids, entries))
        at = len(ids)
    for size in (sizes or []) + [1] * len(ids):
        if at >= len(ids):
            break
        deltas.append(assembler.feed(ids[at : at + size], entries[at : at + size]))
        at += size
    if not whole:
        deltas.append(assembler.finish(reason, stop_id))
    reply = collect([delta for delta in deltas if delta is not None])
    reply.completion_tokens, reply.reasoning_tokens = assembler.completion_tokens, assembler.reasoning_tokens
    return reply


def with_tools(**changes: Any) -> OutputPlan:
    return replace(
        PLAN, call_tags=PARSERS["hermes"].call_tags, new_tool_parser=tool_parser_factory("hermes", []), **changes
    )


def test_plain_text() -> None:
    reply = run(PLAN, "Hello, 世界😀")
    assert (reply.content, reply.finish_reason, reply.stop_reason) == ("Hello, 世界😀", "stop", None)
    assert reply.token_ids == [*TOKENIZER.encode("Hello, 世界😀"), EOS]
    assert reply.completion_tokens == len(reply.token_ids)


def test_length_and_other_stop_ids() -> None:
    assert run(PLAN, "Hello", reason="length").finish_reason == "length"
    assembler = OutputAssembler(3, PLAN)
    delta = assembler.finish("stop", 151643, [9707, 151643])
    assert (delta.index, delta.content, delta.stop_reason) == (3, "Hello", 151643)


def test_the_end_token_is_shown_only_when_asked_for() -> None:
    plan = replace(PLAN, skip_special_tokens=False)
    assert run(plan, "Hello").content == "Hello"
    assert run(replace(plan, include_stop_str_in_output=True), "Hello").content == "Hello<|im_end|>"
    world = TOKENIZER.encode(" world")
    ordinary = replace(PLAN, end_token_ids=frozenset(world))
    assert OutputAssembler(0, ordinary).finish("stop", world[0], [9707, *world]).content == "Hello"


def test_special_tokens_in_the_middle() -> None:
    text = "a<|im_start|>b<think>c"
    assert run(PLAN, text).content == "ab<think>c"
    assert run(replace(PLAN, skip_special_tokens=False), text).content == text


def test_half_a_character_waits_with_its_ids_and_is_dropped_at_the_end() -> None:
    assembler = OutputAssembler(0, PLAN)
    assert assembler.feed([51461]) == ChoiceDelta(0, " ", token_ids=(51461,))
    lead = next(i for i in range(256) if TOKENIZER.token_bytes(i) == b"\xe6")
    assert assembler.feed([117]) == ChoiceDelta(0, "根", token_ids=(117,))
    assert assembler.feed([lead]) is None
    last = assembler.finish("length")
    assert (last.content, last.token_ids) == ("", (lead,))


@pytest.mark.parametrize("include", [False, True])
def test_stop_strings(include: bool) -> None:
    plan = replace(PLAN, stop=("world", "Hello w"), include_stop_str_in_output=include)
    reply = run(plan, "Say Hello world and more")
    assert reply.content == ("Say Hello w" if include else "Say ")
    assert (reply.finish_reason, reply.stop_reason) == ("stop", "Hello w")
    assert reply.completion_tokens == len(TOKENIZER.encode("Say Hello world"))
    assert len(reply.token_ids) == reply.completion_tokens


def test_a_stopped_choice_takes_no_more() -> None:
    assembler = OutputAssembler(0, replace(PLAN, stop=("b",)))
    assert assembler.feed(TOKENIZER.encode("a b")) == ChoiceDelta(0, "a ", token_ids=tuple(TOKENIZER.encode("a b")))
    assert assembler.stopped
    assert assembler.feed([9707]) is None
    last = assembler.finish("abort")
    assert (last.content, last.token_ids, last.finish_reason, last.stop_reason) == ("", (), "stop", "b")


def test_min_tokens_hold_stop_strings_off() -> None:
    ids = TOKENIZER.encode("x x x x")
    assert run(replace(PLAN, stop=(" x",), min_tokens=2), ids).content == "x x"
    assert run(replace(PLAN, stop=(" x",), min_tokens=2), ids, whole=True).content == "x x"


def test_thoughts_and_their_count() -> None:
    plan = replace(PLAN, thinking="auto")
    reply = run(plan, "<think>\none two\n</think>\n\nHello")
    assert (reply.reasoning, reply.content) == ("one two", "Hello")
    assert reply.reasoning_tokens == len(TOKENIZER.encode("\none two\n"))
    assert run(plan, "<think>\none two", reason="length").content == ""
    assert run(replace(PLAN, thinking="open"), "one</think>two").reasoning == "one"
    assert run(replace(PLAN, thinking="closed"), "one</think>two").content == "one</think>two"


def test_thoughts_can_be_left_out_with_all_that_is_theirs() -> None:
    plan = replace(PLAN, thinking="auto", include_reasoning=False, logprobs=True)
    reply = run(plan, "<think>one</think>two", logprobs=True)
    assert (reply.reasoning, reply.content) == ("", "two")
    assert reply.token_ids == [*TOKENIZER.encode("two"), EOS]
    assert len(reply.logprobs) == 2
    assert reply.reasoning_tokens == 1
    assert reply.completion_tokens == 5


CALL = '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'


def test_calls_decide_the_finish_reason() -> None:
    reply = run(with_tools(), f"ok\n{CALL}\n{CALL}")
    assert (reply.content, reply.calls) == ("ok", [["f", '{"n": 1}']] * 2)
    assert reply.finish_reason == "tool_calls"
    assert run(with_tools(), CALL, reason="length").finish_reason == "length"
    assert run(with_tools(), "none").finish_reason == "stop"
    assert run(PLAN, CALL).content == CALL
    assert run(with_tools(parallel_tool_calls=False), f"{CALL}\n{CALL}").calls == [["f", '{"n": 1}']]


def test_a_call_inside_a_thought_ends_it() -> None:
    reply = run(with_tools(thinking="auto"), f"<think>a {CALL}")
    assert (reply.reasoning, reply.content, reply.calls) == ("a ", "", [["f", '{"n": 1}']])


def test_logprobs_with_true_bytes_and_offsets() -> None:
    reply = run(replace(PLAN, logprobs=True), "a 根b", logprobs=True)
    chosen = [position.chosen for position in reply.logprobs]
    assert b"".join(entry.token_bytes for entry in chosen) == "a 根b<|im_end|>".encode()
    assert [entry.token for entry in chosen][-2:] == ["b", "<|im_end|>"]
    assert chosen[1].token == " \\xe6\\xa0"
    assert [position.text_offset for position in reply.logprobs][-2:] == [3, 4]
    assert reply.logprobs[0].top[0].rank == 1


_WORDS = st.sampled_from(
    [
        "<think>",
        "</think>",
        "\n",
        " Hello",
        "世",
        "😀",
        CALL,
        "STOP",
        "ST",
        "OP",
        "<|im_start|>",
        "根",
        "<tool",
        "_call>",
    ]
)


@given(
    words=st.lists(_WORDS, max_size=10),
    noise=st.lists(st.integers(0, 255), max_size=3),
    sizes=st.lists(st.integers(1, 6), max_size=10),
    stop=st.sampled_from([(), ("STOP",), ("OP", "\n\n", "Hello")]),
    thinking=st.sampled_from([None, "auto", "open", "closed"]),
    tools=st.booleans(),
    include_reasoning=st.booleans(),
    min_tokens=st.integers(0, 4),
    reason=st.sampled_from(["stop", "length"]),
)
def test_every_chunking_gives_the_same_reply(
    words: list[str], noise: list[int], sizes: list[int], tools: bool, reason: FinishReason, **changes: Any
) -> None:
    plan = with_tools(**changes) if tools else replace(PLAN, **changes)
    ids = TOKENIZER.encode("".join(words), control_tokens=True) + noise
    singly = run(plan, ids, reason=reason)
    assert run(plan, ids, sizes, reason=reason) == singly
    assert run(plan, ids, reason=reason, whole=True) == singly


def xml_plan(thinking: Any) -> OutputPlan:
    properties = {
        "n": {"type": "integer"},
        "s": {"type": "string"},
        "b": {"type": "boolean"},
        "o": {"type": "object"},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}]
    return replace(
        PLAN,
        thinking=thinking,
        call_tags=PARSERS["qwen_xml"].call_tags,
        new_tool_parser=tool_parser_factory("qwen_xml", tools),
    )


HERMES_CALL = '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("plan", "output", "reasoning", "content", "calls"),
    [
        # Newlines around the tags are nobody's text here; vLLM leaves them in both parts.
        (with_tools(thinking="auto"), "<think>\nabc\n</think>\n\nHello", "abc", "Hello", []),
        (with_tools(thinking="open"), "\nabc\n</think>\n\nHello", "abc", "Hello", []),
        # What the prompt opened decides, not a flag: without an opened thought this is content.
        (with_tools(thinking="open"), "no end tag", "no end tag", "", []),
        (with_tools(thinking="auto"), "no end tag", "", "no end tag", []),
        (with_tools(thinking="closed"), "Hello", "", "Hello", []),
        (with_tools(thinking="auto"), f"<think>a</think>\n{HERMES_CALL}", "a", "", [["f", '{"n": 1}']]),
        (with_tools(thinking="auto"), f"<think>a {HERMES_CALL}", "a ", "", [["f", '{"n": 1}']]),
        (
            xml_plan("auto"),
            "<think>a</think>\n\nok\n<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n<parameter=s>\n007\n"
            '</parameter>\n<parameter=b>\ntrue\n</parameter>\n<parameter=o>\n{"k": [1]}\n</parameter>\n</function>\n'
            "</tool_call>",
            "a",
            "ok",
            [["f", '{"n": 3, "s": "007", "b": true, "o": {"k": [1]}}']],
        ),
        (
            xml_plan("auto"),
            "<think>a</think>\n<tool_call>\n<function=g>\n<parameter=zz>\n3\n</parameter>\n</function>\n</tool_call>",
            "a",
            "",
            [["g", '{"zz": "3"}']],
        ),
        (
            xml_plan("auto"),
            "<think>a</think>\n<tool_call>\n<function=f>\n<parameter=n>\nabc\n</parameter>\n</function>\n</tool_call>",
            "a",
            "",
            [["f", '{"n": "abc"}']],
        ),
        (with_tools(), '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>', "", "", [["other", "{}"]]),
        (
            with_tools(),
            '<tool_call>\n{"name": "f" x\n</tool_call>',
            "",
            '<tool_call>\n{"name": "f" x\n</tool_call>',
            [],
        ),
        # A call without arguments is a call; vLLM shows it as text.
        (with_tools(), '<tool_call>\n{"name": "f"}\n</tool_call>', "", "", [["f", "{}"]]),
    ],
)
def test_the_cases_of_other_servers(
    plan: OutputPlan, output: str, reasoning: str, content: str, calls: list[list[str]]
) -> None:
    reply = run(plan, output)
    assert (reply.reasoning, reply.content, reply.calls) == (reasoning, content, calls)
    assert reply.finish_reason == ("tool_calls" if calls else "stop")
