from __future__ import annotations

from typing import Any

import pytest

from adapters.messages import TemplateTraits, normalise_messages, normalise_tools
from engine.errors import RequestError

TRAITS = TemplateTraits()


def _plain(*messages: object, traits: TemplateTraits = TRAITS) -> list[dict[str, Any]]:
    return normalise_messages(messages, traits)


def test_leading_instructions_become_one_system_message() -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": ""},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": "q"},
        {"role": "system", "content": "late"},
    ]
    late = {"role": "system", "content": "late"}
    assert _plain(*messages) == [{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "q"}, late]
    merged = _plain(*messages, traits=TemplateTraits(late_system=False))
    assert merged == [{"role": "system", "content": "a\n\nb\n\nlate"}, {"role": "user", "content": "q"}]


def test_a_user_turn_is_put_in_where_the_template_needs_one() -> None:
    traits = TemplateTraits(needs_user=True)
    empty = {"role": "user", "content": ""}
    system = {"role": "system", "content": "s"}
    assert _plain(system, traits=traits) == [system, empty]
    assert _plain({"role": "assistant", "content": "a"}, traits=traits)[0] == empty


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ([], ""),
        ("a", "a"),
        ([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c", {"text": "d"}], "a\nb\nc\nd"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        ({"type": "text", "text": "a"}, "a"),
        ("![image](http://127.0.0.1:1/x.png)", "![image](http://127.0.0.1:1/x.png)"),
    ],
)
@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_form_of_content_becomes_a_string_and_only_a_user_must_say_something(
    role: str, content: object, text: str
) -> None:
    if role == "user" and content in (None, []):
        for message in ({"role": role, "content": content}, {"role": role}):
            with pytest.raises(RequestError) as caught:
                _plain(message)
            assert caught.value.param == "messages[0].content"
        return
    assert _plain({"role": role, "content": content})[0]["content"] == text


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}, "does not support image"),
        ({"type": "input_image", "image_url": "file:///etc/passwd"}, "does not support image"),
        ({"type": "input_audio", "input_audio": {}}, "does not support audio"),
        ({"type": "video_url"}, "does not support video"),
        ({"type": "file", "file": {}}, "does not support file"),
        ({"type": "foo"}, "must be a text part"),
        ({"type": "text", "text": 5}, "must be a text part"),
        ({"type": 5}, "must be a text part"),
        (5, "must be a text part"),
        (None, "must be a text part"),
    ],
)
def test_parts_that_are_no_text_are_named(part: object, word: str) -> None:
    with pytest.raises(RequestError, match=word) as caught:
        _plain({"role": "user", "content": "q"}, {"role": "user", "content": [{"type": "text", "text": "a"}, part]})
    assert caught.value.param == "messages[1].content[1]"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "banana", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": 5}, "messages[0].role"),
        ({"role": ["user"]}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ("text", "messages[0]"),
        ({"role": "assistant", "tool_calls": 5}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [5]}, "messages[0].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"function": 5}]}, "messages[0].tool_calls[0]"),
    ],
)
def test_malformed_messages_are_named(message: object, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        _plain(message)
    assert caught.value.param == param


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_thoughts_are_taken_under_either_name(key: str) -> None:
    message = _plain({"role": "assistant", "content": "a", key: "because"})[0]
    assert message["reasoning"] == message["reasoning_content"] == "because"
    assert "reasoning" not in _plain({"role": "user", "content": "a", key: "because"})[0]


def _arguments(arguments: object, traits: TemplateTraits = TRAITS) -> object:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return _plain({"role": "assistant", "tool_calls": [call]}, traits=traits)[0]["tool_calls"][0]["function"][
        "arguments"
    ]


@pytest.mark.parametrize(
    ("given", "rendered"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ("null", {}),
        ('{"a": ', '{"a": '),
        ("[1]", {"arguments": [1]}),
        (5, {"arguments": 5}),
    ],
)
def test_arguments_become_an_object(given: object, rendered: object) -> None:
    assert _arguments(given) == rendered


def test_arguments_where_the_template_is_narrower() -> None:
    assert _arguments('{"a": ', TemplateTraits(text_arguments=False)) == {"arguments": '{"a": '}
    assert _arguments({"a": "é"}, TemplateTraits(object_arguments=False)) == '{"a":"é"}'
    assert _arguments("[" * 100_000) == "[" * 100_000


def test_old_and_custom_calls_and_missing_fields() -> None:
    old = _plain({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}})[0]
    assert old["tool_calls"] == [{"id": "", "type": "function", "function": {"name": "f", "arguments": {}}}]
    custom = _plain({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "g", "input": "x"}}]})[
        0
    ]
    assert custom["tool_calls"][0]["function"] == {"name": "g", "arguments": {"input": "x"}}
    bare = _plain({"role": "assistant", "tool_calls": [{}]})[0]
    assert bare["tool_calls"][0]["function"] == {"name": "", "arguments": {}}


def test_tools_in_the_spelling_of_training() -> None:
    parameters = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}
    tool = {"function": {"strict": True, "parameters": parameters, "name": "f", "description": None}}
    assert normalise_tools([tool]) == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    ]
    assert list(normalise_tools([tool])[0]["function"]) == ["name", "parameters"]


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "web_search"}, "tools[0].type"),
        (5, "tools[0].type"),
        ({"type": "function"}, "tools[0].function.name"),
        ({"type": "function", "function": {"name": ""}}, "tools[0].function.name"),
    ],
)
def test_malformed_tools_are_named(tool: object, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        normalise_tools([tool])
    assert caught.value.param == param
