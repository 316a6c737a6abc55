"""The form a reply must have: OpenAI's response_format, vLLM's structured_outputs, and older names of both."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import Any

from engine.request import GrammarSpec
from oai_server.errors import invalid
from oai_server.wire.sampling import SamplingFields

ALIASES = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
    "regex": "regex",
    "ebnf": "grammar",
    "json_schema": "json",
}
"""Other servers' and older fields, with the key of structured_outputs that means the same."""
FIELDS = ("response_format", "structured_outputs", *ALIASES)

_read = attrgetter(*FIELDS)
_NONE = (None,) * len(FIELDS)


async def requested_grammar(request: SamplingFields, timeout_s: float) -> GrammarSpec | None:
    """The grammar that a request asks for, compiled once to see that it is one. Raises 400 naming the field.

    Compiling runs beside the event loop, for at most `timeout_s`.
    """
    values = _read(request)
    if values == _NONE:
        return None
    given = {name: value for name, value in zip(FIELDS, values, strict=True) if not _says_nothing(name, value)}
    if not given:
        return None
    if len(given) > 1:
        raise invalid(f"Only one of {', '.join(given)} can be used at a time.", next(iter(given)))
    ((name, value),) = given.items()
    try:
        return await asyncio.wait_for(asyncio.to_thread(_compiled, name, value), timeout_s)
    except TimeoutError:
        raise invalid(f"{name} takes longer than {timeout_s:g} s to compile.", name) from None


def _says_nothing(name: str, value: Any) -> bool:
    if name == "response_format":
        return value is None or (isinstance(value, dict) and value.get("type") == "text")
    return value is None or (name == "guided_json_object" and value is False)


def _compiled(name: str, value: Any) -> GrammarSpec | None:
    from adapters.grammars import response_format_grammar, structured_outputs_grammar  # not needed at start

    if name == "response_format":
        return response_format_grammar(value)
    if name == "structured_outputs":
        return structured_outputs_grammar(value)
    return structured_outputs_grammar({ALIASES[name]: value}, name)
