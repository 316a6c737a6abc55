"""A grammar as llguidance reads it. Nothing here knows tensors: the front checks grammars with it, too."""

from __future__ import annotations

import json
from typing import Any

import llguidance

from engine.errors import RequestError
from engine.request import GrammarSpec

JSON_OPTIONS: Any = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,48}",
    "coerce_one_of": True,
}
"""Whitespace between JSON's tokens is free but bounded: a small model must not loop on it. oneOf is read as anyOf."""

LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=300_000,
    step_lexer_fuel=60_000,
    max_lexer_states=100_000,
    max_items_in_row=4000,
    step_max_items=150_000,
)
"""Work that one mask may take. With the library's own `(a{1000}){1000}` stops the engine for over a second, and
objects of 200 optional properties cannot be followed.
"""


def grammar_parts(spec: GrammarSpec) -> list[dict[str, Any]]:
    """llguidance's list of grammars, the first of which is where it starts. Raises RequestError when it is none."""
    if spec.kind == "llguidance":
        return _parts(spec.text)
    if spec.kind in ("json_schema", "json_object"):
        schema = spec.text if spec.kind == "json_schema" else '{"type": "object"}'
        schema = {"true": "{}", "false": '{"enum": []}'}.get(schema.strip(), schema)
        try:
            return _parts(llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=JSON_OPTIONS))
        except ValueError as error:
            raise RequestError(f"Invalid JSON schema: {error}") from None
    if spec.kind == "regex":
        return _parts(llguidance.LLMatcher.grammar_from_regex(spec.text))
    if spec.kind == "choice":
        choices = json.loads(spec.text)
        return [{"lark_grammar": "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice) for choice in choices)}]
    return [{"lark_grammar": spec.text}]


def grammar_source(spec: GrammarSpec) -> str:
    """The text that a matcher is made of. Raises RequestError."""
    return json.dumps({"grammars": grammar_parts(spec)})


def _parts(text: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = json.loads(text)["grammars"]
    return [{key: value for key, value in part.items() if value is not None} for part in parts]


def is_panic(error: BaseException) -> bool:
    """Rust's panics come as a BaseException of their own."""
    return type(error).__name__ == "PanicException"
