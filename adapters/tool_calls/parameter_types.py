"""What kind of JSON a tool's parameter takes, and raw text as JSON of that kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

STRING_ONLY = frozenset({"string"})
OPTIONAL_STRING = frozenset({"string", "null"})

_MAX_DEPTH = 16


class ParameterTypes:
    """JSON kinds (string, integer, number, boolean, object, array, null) of the parameters of a request's tools."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self._schemas: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = tool.get("function")
            if isinstance(function, Mapping) and isinstance(function.get("parameters"), Mapping):
                self._schemas.setdefault(str(function.get("name")), function["parameters"])

    def kinds(self, function: str, parameter: str) -> frozenset[str]:
        """An unknown function, parameter or type takes a string."""
        root = self._schemas.get(function, {})
        properties = root.get("properties")
        schema = properties.get(parameter) if isinstance(properties, Mapping) else None
        return _kinds(schema, root, _MAX_DEPTH) or STRING_ONLY


def _kinds(schema: object, root: Mapping[str, Any], depth: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset()
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(item for item in named if isinstance(item, str))
    if isinstance(reference := schema.get("$ref"), str):
        return _kinds(_resolved(reference, root), root, depth - 1)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset(map(_kind_of, values))
    branches = [branch for key in ("anyOf", "oneOf", "allOf") for branch in schema.get(key) or []]
    kinds = [_kinds(branch, root, depth - 1) for branch in branches]
    return frozenset[str]().union(*kinds)


def _resolved(reference: str, root: Mapping[str, Any]) -> object:
    """A schema inside the same parameters; nothing is looked up elsewhere."""
    found: object = root if reference.startswith("#/") else None
    for step in reference[2:].split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "integer", float: "number", dict: "object", list: "array", type(None): "null"}
    return kinds.get(type(value), "string")


def as_json(text: str, kinds: frozenset[str]) -> str:
    """The text as JSON of the first kind that it fits; as a string when it fits none."""
    word = text.strip()
    if "null" in kinds and word.lower() in ("null", "none"):
        return "null"
    if "boolean" in kinds and word.lower() in ("true", "false"):
        return word.lower()
    value = _decoded(word)
    for kind, fits in _FITS.items():
        if kind in kinds and fits(value):
            return json.dumps(value, ensure_ascii=False)
    return f'"{escaped(text)}"'


_FITS: dict[str, Callable[[object], bool]] = {
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}


def _decoded(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def escaped(text: str) -> str:
    """The inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
