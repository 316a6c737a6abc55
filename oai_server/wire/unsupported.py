"""Known parameters that would change the answer and are not served yet: refused by name, never silently dropped.

A feature is switched on by deleting its line here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import msgspec

from oai_server.errors import invalid

Asks = Callable[[Any], bool]


def _given(value: Any) -> bool:
    return value not in (None, False, "", [], {})


UNSUPPORTED: dict[str, Asks] = {
    "structural_tag": _given,
    "use_beam_search": _given,
    "logprob_token_ids": _given,
    "logits_processors": _given,
    "thinking_token_budget": lambda value: value not in (None, -1),
    "repetition_detection": _given,
    "prompt_embeds": _given,
    "suffix": lambda value: value not in (None, ""),
}


@functools.cache
def _getter(kind: type[msgspec.Struct]) -> tuple[Callable[[object], tuple[Any, ...]], tuple[str, ...]]:
    """All values of a Struct's fields that are in the table, read in one go; and their names."""
    names = tuple(name for name in UNSUPPORTED if name in kind.__struct_fields__)
    return operator.attrgetter(*names, names[0]), names


def refuse_unsupported(request: msgspec.Struct) -> None:
    """Raises 400 naming the first parameter that asks for something not served. `request`: a wire Struct."""
    read, names = _getter(type(request))
    values = read(request)
    if values == (None,) * len(values):
        return
    for name, value in zip(names, values, strict=False):
        if value is not None and UNSUPPORTED[name](value):
            raise invalid(f"`{name}` is not supported by this server.", name, "unsupported_parameter")
