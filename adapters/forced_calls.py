"""tool_choice "required" or a named function: the reply as a grammar, so that a call comes and fits its schema."""

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
MAX_WHOLE_BYTES = 1 << 20
"""All tools together."""


def forced_call_grammar(
    tool_format: ToolFormat, tools: Sequence[Mapping[str, Any]], *, parallel: bool = True, timeout_s: float = math.inf
) -> GrammarSpec:
    """One call, or several where `parallel`, of the given tools in the model's own format.

    Arguments obey the tool's schema; without `strict`, keywords that cannot be enforced are left out. The vocabulary
    must have <tool_call> and </tool_call> as tokens. Raises RequestError (param tools) when a strict schema cannot be
    enforced, or when all of them take longer than `timeout_s`.
    """
    give_up_s = time.monotonic() + timeout_s
    rules: list[str] = []
    parts = _Parts(give_up_s)
    for i, tool in enumerate(tools):
        if time.monotonic() > give_up_s:
            raise RequestError(f"The tools' schemas take longer than {timeout_s:g} s to compile.", "tools")
        function = tool["function"]
        if function.get("strict"):
            parts.check(_object(function.get("parameters")))
        rule = _hermes if tool_format == "hermes" else _xml
        rules += rule(i, function, parts)
    call = " | ".join(f"call{i}" for i in range(len(tools)))
    start = f'start: call ("\\n" call)*\ncall: <tool_call> "\\n" ({call}) "\\n" </tool_call>'
    if not parallel:
        start = start.replace('call ("\\n" call)*', "call", 1)
    lark = "\n".join([start, *rules])
    whole = GrammarSpec("llguidance", json.dumps({"grammars": [{"lark_grammar": lark}, *parts.parts]}), "tools")
    return checked(whole, "tools", parts.left_s(), max_bytes=MAX_WHOLE_BYTES)


class _Parts:
    """The grammars that the rules refer to, each compiled for trial before `give_up_s`."""

    def __init__(self, give_up_s: float) -> None:
        self.parts: list[Part] = []
        self._give_up_s = give_up_s

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
