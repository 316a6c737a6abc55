"""What a client may ask of a reply's form, as one grammar; checked here, before a request costs anything.

Each grammar is compiled over an alphabet of single bytes (milliseconds), under caps on size and depth; what cannot be
enforced is an error that names the reason, never silently dropped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import msgspec
from llguidance.gbnf_to_lark import any_to_lark

from adapters.reasoning import CLOSE_TAG, OPEN_TAG, ThinkingState
from engine.errors import RequestError
from engine.request import GrammarSpec
from engine.text.grammar_source import LIMITS, grammar_parts, grammar_source, is_panic

MAX_BYTES = 256 << 10
MAX_DEPTH = 64
MAX_CHOICES = 10_000

_FORMATS = ("text", "json_object", "json_schema")
_STRUCTURED = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


def response_format_grammar(response_format: object) -> GrammarSpec | None:
    """OpenAI's response_format; None for text. Raises RequestError with param response_format."""
    param = "response_format"
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if not isinstance(response_format, Mapping) or kind not in _FORMATS:
        raise RequestError(f"response_format.type must be one of {', '.join(_FORMATS)}.", param)
    if kind == "text":
        return None
    if kind == "json_object":
        return GrammarSpec("json_object", "")
    wrapper = response_format.get("json_schema")
    if not isinstance(wrapper, Mapping):
        message = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
        raise RequestError(message, param)
    if wrapper.get("schema") is None:
        raise RequestError("response_format.json_schema needs a 'schema'.", param)
    return schema_grammar(wrapper["schema"], strict=bool(wrapper.get("strict")), param=param)


def structured_outputs_grammar(options: object, param: str = "structured_outputs") -> GrammarSpec | None:
    """vLLM's structured_outputs: exactly one of json, regex, choice, grammar, json_object. Raises RequestError."""
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise RequestError(f"{param} must be an object.", param)
    given = [name for name in _STRUCTURED if options.get(name) is not None]
    if len(given) != 1:
        message = "You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice')."
        raise RequestError(message, param)
    kind, value = given[0], options[given[0]]
    if kind == "json":
        schema = _decoded(value, param) if isinstance(value, str) else value
        return schema_grammar(schema, strict=False, param=param)
    if kind == "json_object" and value is True:
        return GrammarSpec("json_object", "", param)
    if kind == "choice" and isinstance(value, Sequence) and not isinstance(value, str) and value:
        if all(isinstance(choice, str) and choice for choice in value) and len(value) <= MAX_CHOICES:
            return _checked(GrammarSpec("choice", json.dumps(list(value)), param), param)
        raise RequestError(f"choice must be at most {MAX_CHOICES} non-empty strings.", param)
    if kind in ("regex", "grammar") and isinstance(value, str) and value:
        return _checked(GrammarSpec("regex", value, param) if kind == "regex" else _lark(value, param), param)
    raise RequestError(f"{param}.{kind} cannot be used with this value.", param)


def schema_grammar(schema: object, *, strict: bool, param: str) -> GrammarSpec:
    """A JSON schema. Keywords that cannot be enforced are an error; without `strict` they are left out.

    Raises RequestError with the given param.
    """
    if not isinstance(schema, Mapping | bool):
        raise RequestError("A JSON schema must be an object.", param)
    if _depth(schema) > MAX_DEPTH:
        raise RequestError(f"The JSON schema is nested deeper than {MAX_DEPTH} levels.", param)
    spec = GrammarSpec("json_schema", json.dumps(schema, ensure_ascii=False), param)
    try:
        return _checked(spec, param)
    except RequestError:
        if strict or isinstance(schema, bool):
            raise
    lenient = {**schema, "x-guidance": {"lenient": True}}
    return _checked(GrammarSpec("json_schema", json.dumps(lenient, ensure_ascii=False), param), param)


def after_thinking(spec: GrammarSpec, thinking: ThinkingState | None) -> GrammarSpec:
    """The grammar for a reply that begins where the prompt left the model: free thought, then what is asked for.

    The vocabulary must have the two tags as tokens when the model thinks.
    """
    if thinking in (None, "closed"):
        return spec
    first, *rest = grammar_parts(spec)
    thought = rf"{'' if thinking == 'open' else OPEN_TAG} thought {CLOSE_TAG} /\n*/"
    start = f"start: {thought} @answer" if thinking == "open" else f"start: ({thought})? @answer"
    lark = start + "\nthought: /(.|\\n)*/"
    parts = [{"lark_grammar": lark}, {**first, "name": "answer"}, *rest]
    return GrammarSpec("llguidance", json.dumps({"grammars": parts}), spec.param)


def _lark(text: str, param: str) -> GrammarSpec:
    """Lark, or llama.cpp's GBNF."""
    if len(text) > MAX_BYTES:
        raise RequestError(f"The grammar is larger than {MAX_BYTES} bytes.", param)
    try:
        return GrammarSpec("lark", any_to_lark(text), param)
    except Exception as error:  # noqa: BLE001 - the converter raises whatever its parser stumbles over
        raise RequestError(f"Invalid grammar specification: {error}", param) from None


def _checked(spec: GrammarSpec, param: str) -> GrammarSpec:
    """The spec, once it has been compiled. Raises RequestError when it is too large, wrong, or allows nothing."""
    if len(spec.text) > MAX_BYTES:
        raise RequestError(f"The grammar is larger than {MAX_BYTES} bytes.", param)
    try:
        matcher = llguidance.LLMatcher(_byte_alphabet(), grammar_source(spec), log_level=0, limits=LIMITS)
        failure = matcher.get_error() if matcher.is_error() else ""
        if not failure:
            matcher.compute_bitmask()
            failure = "it allows no reply at all" if matcher.is_stopped() and not matcher.is_accepting() else ""
    except RequestError as error:
        raise RequestError(str(error), param) from None
    except BaseException as error:  # Rust's panics are no Exception
        if not is_panic(error):
            raise
        failure = "the grammar library failed on it"
    if failure:
        raise RequestError(f"Invalid grammar specification: {failure}", param)
    return spec


class _Bytes:
    """An alphabet of single bytes, for checking."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def _byte_alphabet() -> Any:
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))


def _depth(value: object) -> int:
    """Levels of nesting, counted without recursion and no further than needed."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        lists = [list(v.values()) if isinstance(v, Mapping) else v for v in level if isinstance(v, Mapping | list)]
        level = [item for items in lists for item in items]
    return depth


def _decoded(text: str, param: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise RequestError("The JSON schema is not valid JSON.", param) from None
