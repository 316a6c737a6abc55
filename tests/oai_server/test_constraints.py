"""From the fields of a request to one grammar, whatever the switchboard of `wire.unsupported` lets through."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.errors import RequestError
from oai_server.errors import ApiError
from oai_server.wire.completions import CompletionRequest
from oai_server.wire.constraints import FIELDS, requested_grammar

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def request(**fields: Any) -> CompletionRequest:
    return msgspec.convert({"prompt": "a", **fields}, CompletionRequest)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"guided_json_object": False}, None),
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, "json_schema"),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice"),
        ({"guided_json": SCHEMA}, "json_schema"),
        ({"guided_regex": "[0-9]+"}, "regex"),
        ({"guided_choice": ["a"]}, "choice"),
        ({"regex": "[0-9]+"}, "regex"),
        ({"ebnf": 'root ::= "a" | "b"'}, "lark"),
        ({"json_schema": '{"type": "object"}'}, "json_schema"),
    ],
    ids=str,
)
async def test_fields_become_a_grammar(fields: dict[str, Any], kind: str | None) -> None:
    grammar = await requested_grammar(request(**fields), 5.0)
    assert (None if grammar is None else grammar.kind) == kind


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": 5}, "response_format"),
        ({"guided_regex": "(["}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises((RequestError, ApiError)) as wrong:
        await requested_grammar(request(**fields), 5.0)
    assert wrong.value.param == param


async def test_a_compile_that_takes_too_long_is_the_client_s_fault() -> None:
    huge = {"structured_outputs": {"choice": [f"choice number {i}" for i in range(9_000)]}}
    with pytest.raises(RequestError, match="too long") as late:
        await requested_grammar(request(**huge), 0.0001)
    assert late.value.param == "structured_outputs"


def test_fields_are_the_struct_s() -> None:
    assert set(FIELDS) <= set(CompletionRequest.__struct_fields__)
