"""What a client may ask of a reply's form, as one grammar; checked here, before a request costs anything.

Each grammar is compiled for trial in a process apart, under caps on size, depth and time; what cannot be enforced is
an error that names the reason, never silently dropped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from adapters.grammar_examiner import Trial, Verdict
from adapters.grammar_trials import TrialTimeoutError, shared_trials
from adapters.reasoning import CLOSE_TAG, OPEN_TAG, ThinkingState
from engine.errors import RequestError
from engine.request import GrammarSpec
from engine.text.grammar_source import grammar_parts

MAX_BYTES = 256 << 10
MAX_DEPTH = 64
MAX_CHOICES = 10_000
TIMEOUT_S = 5.0

_FORMATS = ("text", "json_object", "json_schema")
_STRUCTURED = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_LIBRARY = "x-guidance"
"""A key of schemas that the grammar library takes orders from: ours, no client's."""
_JSON_OPTIONS = {"disable_any_whitespace": bool, "disable_additional_properties": bool, "whitespace_pattern": str}


def response_format_grammar(response_format: object, timeout_s: float = TIMEOUT_S) -> GrammarSpec | None:
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
    for name, wanted in {"name": str, "description": str, "strict": bool}.items():
        _check_type(f"response_format.json_schema.{name}", wrapper.get(name), wanted, param)
    if wrapper.get("schema") is None:
        raise RequestError("response_format.json_schema needs a 'schema'.", param)
    strict = bool(wrapper.get("strict"))
    return schema_grammar(wrapper["schema"], strict=strict, param=param, timeout_s=timeout_s)


def structured_outputs_grammar(
    options: object, param: str = "structured_outputs", timeout_s: float = TIMEOUT_S
) -> GrammarSpec | None:
    """vLLM's structured_outputs: exactly one of json, regex, choice, grammar, json_object. Raises RequestError.

    `param`: the field that errors name; where it is another one, it is an alias of the one kind that `options` holds.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise RequestError(f"{param} must be an object.", param)
    given = [name for name in _STRUCTURED if options.get(name) is not None]
    if len(given) != 1:
        message = "You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice')."
        raise RequestError(message, param)
    for name, wanted in _JSON_OPTIONS.items():
        _check_type(f"{param}.{name}", options.get(name), wanted, param)
    kind, value = given[0], options[given[0]]
    if kind == "json":
        schema = _decoded(value, param) if isinstance(value, str) else value
        return schema_grammar(schema, strict=False, param=param, timeout_s=timeout_s, options=options)
    if kind == "json_object" and value is True:
        if any(options.get(name) for name in _JSON_OPTIONS):
            return schema_grammar({"type": "object"}, strict=False, param=param, timeout_s=timeout_s, options=options)
        return GrammarSpec("json_object", "", param)
    if kind == "choice" and isinstance(value, Sequence) and not isinstance(value, str) and value:
        if all(isinstance(choice, str) and choice for choice in value) and len(value) <= MAX_CHOICES:
            return checked(GrammarSpec("choice", json.dumps(list(value)), param), param, timeout_s)
        raise RequestError(f"{param}: there may be at most {MAX_CHOICES} choices, all non-empty strings.", param)
    if kind == "regex" and isinstance(value, str) and value:
        return checked(GrammarSpec("regex", value, param), param, timeout_s)
    if kind == "grammar" and isinstance(value, str) and value:
        return GrammarSpec("lark", _verdict(Trial("grammar", value), param, timeout_s).lark, param)
    where = f"{param}.{kind}" if param == "structured_outputs" else param
    raise RequestError(f"{where} cannot be used with this value.", param)


def schema_grammar(
    schema: object,
    *,
    strict: bool,
    param: str,
    timeout_s: float = TIMEOUT_S,
    options: Mapping[str, Any] | None = None,
) -> GrammarSpec:
    """A JSON schema. Keywords that cannot be enforced are an error; without `strict` they are left out.

    `options`: vLLM's, about whitespace and additional properties. Raises RequestError with the given param.
    """
    give_up_s = time.monotonic() + timeout_s
    if not isinstance(schema, Mapping | bool):
        raise RequestError("A JSON schema must be an object.", param)
    if _depth(schema) > MAX_DEPTH:
        raise RequestError(f"The JSON schema is nested deeper than {MAX_DEPTH} levels.", param)
    if isinstance(schema, Mapping):
        schema = _with_options(schema, options or {})
    spec = GrammarSpec("json_schema", json.dumps(schema, ensure_ascii=False), param)
    try:
        return checked(spec, param, give_up_s - time.monotonic())
    except RequestError:
        if strict or isinstance(schema, bool):
            raise
    lenient = {**schema, _LIBRARY: {**schema.get(_LIBRARY, {}), "lenient": True}}
    spec = GrammarSpec("json_schema", json.dumps(lenient, ensure_ascii=False), param)
    return checked(spec, param, give_up_s - time.monotonic())


def _with_options(schema: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {key: value for key, value in schema.items() if key != _LIBRARY}
    if options.get("disable_additional_properties"):
        wanted = _closed(wanted)
    if options.get("disable_any_whitespace"):
        wanted[_LIBRARY] = {"whitespace_flexible": False, "whitespace_pattern": None}
    elif options.get("whitespace_pattern"):
        wanted[_LIBRARY] = {"whitespace_flexible": True, "whitespace_pattern": options["whitespace_pattern"]}
    return wanted


def _closed(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever an object's properties are told, as in vLLM.

    At most as deep as schemas may be.
    """
    if isinstance(schema, Mapping):
        closed = {key: _closed(value) for key, value in schema.items()}
        if "additionalProperties" not in closed and (closed.get("type") == "object" or "properties" in closed):
            closed["additionalProperties"] = False
        return closed
    return [_closed(item) for item in schema] if isinstance(schema, list) else schema


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


def checked(spec: GrammarSpec, param: str, timeout_s: float, max_bytes: int = MAX_BYTES) -> GrammarSpec:
    """The spec, once it has been compiled.

    Raises RequestError when it is too large, wrong, or allows nothing, or is not compiled in time.
    """
    _verdict(Trial(spec.kind, spec.text), param, timeout_s, max_bytes)
    return spec


def _verdict(trial: Trial, param: str, timeout_s: float, max_bytes: int = MAX_BYTES) -> Verdict:
    if len(trial.text) > max_bytes:
        raise RequestError(f"The grammar is larger than {max_bytes} bytes.", param)
    try:
        verdict = shared_trials().verdict(trial, timeout_s)
    except TrialTimeoutError:
        raise RequestError(f"{param} takes too long to compile.", param) from None
    if verdict.reason:
        raise RequestError(f"Invalid grammar specification: {verdict.reason}", param)
    return verdict


def _check_type(name: str, value: object, wanted: type, param: str) -> None:
    if value is not None and not isinstance(value, wanted):
        words = {bool: "a boolean", str: "a string"}[wanted]
        raise RequestError(f"{name} must be {words}.", param)


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
