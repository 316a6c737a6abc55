"""Tool calls as a grammar: those that must come (tool_choice "required" or a named function), and those that may come
of strict tools. Their arguments fit the tools' schemas."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.grammars import TIMEOUT_S, checked, schema_grammar
from adapters.tool_calls import ToolFormat
from adapters.tool_calls.parameter_types import STRING_ONLY, ParameterTypes
from engine.errors import RequestError
from engine.request import GrammarSpec
from engine.text.grammar_source import grammar_parts

Part = dict[str, Any]
Tool = Mapping[str, Any]
MAX_WHOLE_BYTES = 1 << 20
"""All tools together."""


def forced_call_grammar(
    tool_format: ToolFormat, tools: Sequence[Tool], *, parallel: bool = True, timeout_s: float = math.inf
) -> GrammarSpec:
    """One call, or several where `parallel`, of the given tools in the model's own format.

    Arguments obey the tool's schema; without `strict`, keywords that cannot be enforced are left out. The vocabulary
    must have <tool_call> and </tool_call> as tokens. Raises RequestError (param tools) when a strict schema cannot be
    enforced, or when all of them take longer than `timeout_s`.
    """
    parts = _Parts(timeout_s)
    rules = _calls(tool_format, tools, parts, parallel, check_strict=True)
    return _whole(["start: calls", *rules], parts)


def possible_call_grammar(
    tool_format: ToolFormat, tools: Sequence[Tool], *, parallel: bool = True, timeout_s: float = math.inf
) -> GrammarSpec:
    """tool_choice "auto" with strict tools: free text, and calls as above when the model makes some.

    Keywords of schemas that cannot be enforced are left out. Raises RequestError as above.
    """
    parts = _Parts(timeout_s)
    rules = _calls(tool_format, tools, parts, parallel, check_strict=False)
    return _whole(["start: text calls?", "text: /(.|\\n)*/", *rules], parts)


def _calls(
    tool_format: ToolFormat, tools: Sequence[Tool], parts: _Parts, parallel: bool, *, check_strict: bool
) -> list[str]:
    """The rule `calls` and those that it needs."""
    rules = ['calls: call ("\\n" call)*' if parallel else "calls: call"]
    call = " | ".join(f"call{i}" for i in range(len(tools)))
    rules.append(f'call: <tool_call> "\\n" ({call}) "\\n" </tool_call>')
    for i, tool in enumerate(tools):
        parts.check_time()
        function = tool["function"]
        if check_strict and function.get("strict"):
            parts.check(_object(function.get("parameters")))
        rules += (_hermes if tool_format == "hermes" else _xml)(i, function, parts)
    return rules


def _whole(rules: Sequence[str], parts: _Parts) -> GrammarSpec:
    grammars = [{"lark_grammar": "\n".join(rules)}, *parts.parts]
    whole = GrammarSpec("llguidance", json.dumps({"grammars": grammars}), "tools")
    return checked(whole, "tools", parts.left_s(), max_bytes=MAX_WHOLE_BYTES)


class _Parts:
    """The grammars that the rules refer to, each compiled for trial, all within `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self.parts: list[Part] = []
        self._timeout_s = timeout_s
        self._give_up_s = time.monotonic() + timeout_s

    def check_time(self) -> None:
        if time.monotonic() > self._give_up_s:
            raise RequestError(f"The tools' schemas take longer than {self._timeout_s:g} s to compile.", "tools")

    def left_s(self) -> float:
        return min(self._give_up_s - time.monotonic(), TIMEOUT_S)

    def check(self, schema: Mapping[str, Any], *, strict: bool = True) -> GrammarSpec:
        return schema_grammar(schema, strict=strict, param="tools", timeout_s=self.left_s())

    def add_json(self, name: str, schema: Mapping[str, Any]) -> None:
        self.parts.append({**grammar_parts(self.check(schema, strict=False))[0], "name": name})

    def add_value(self, name: str, parameter: object, definitions: Mapping[str, Any]) -> None:
        """A value as the XML format writes it: strings of an enumeration bare, everything else as JSON."""
        choices = parameter.get("enum") if isinstance(parameter, Mapping) else None
        if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
            part = grammar_parts(GrammarSpec("choice", json.dumps(choices)))[0]
            self.parts.append({**part, "name": name})
        else:
            self.add_json(name, {**parameter, **definitions} if isinstance(parameter, Mapping) else {})


def _hermes(i: int, function: Mapping[str, Any], parts: _Parts) -> list[str]:
    parts.add_json(f"arguments{i}", _object(function.get("parameters")))
    head = f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": '
    return [f'call{i}: {json.dumps(head)} @arguments{i} "}}"']


def _xml(i: int, function: Mapping[str, Any], parts: _Parts) -> list[str]:
    """The parameters in the schema's order, those that are not required left out at will."""
    schema = _object(function.get("parameters"))
    required = set(schema.get("required") or [])
    types = ParameterTypes([{"function": function}])
    rules: list[str] = []
    sequence = [json.dumps(f"<function={function['name']}>\n")]
    for j, (key, parameter) in enumerate((schema.get("properties") or {}).items()):
        name = f"parameter{i}_{j}"
        sequence.append(name if key in required else f"{name}?")
        head = json.dumps(f"<parameter={key}>\n")
        plain = isinstance(parameter, Mapping) and not parameter.keys() & {"enum", "const", "pattern", "anyOf"}
        if plain and types.kinds(str(function["name"]), key) == STRING_ONLY:
            rules += [f"{name}: {head} text{i}_{j}", f'text{i}_{j}[suffix="\\n</parameter>\\n"]: /(.|\\n)*/']
        else:
            definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
            parts.add_value(f"value{i}_{j}", parameter, definitions)
            rules.append(f'{name}: {head} @value{i}_{j} "\\n</parameter>\\n"')
    return [f'call{i}: {" ".join(sequence)} "</function>"', *rules]


def _object(schema: object) -> Mapping[str, Any]:
    """Arguments are an object, whatever the schema leaves open."""
    return {**schema, "type": "object"} if isinstance(schema, Mapping) else {"type": "object"}
