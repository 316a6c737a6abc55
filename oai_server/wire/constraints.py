"""The form a reply must have: OpenAI's response_format, vLLM's structured_outputs, and older names of both."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import Any

import msgspec

from engine.errors import EngineOverloadedError
from engine.request import GrammarSpec
from oai_server.errors import invalid
from oai_server.wire.depth import depth_within
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

MAX_BYTES = 256 << 10
MAX_DEPTH = 64
WRAPPERS = 3
"""Levels around the schema in response_format."""
MAX_KNOWN = 512
MAX_KNOWN_CHARS = 4 << 20
THREADS = 6
"""They only wait, for the processes that compile."""
SPARE_S = 1.0
"""Wait for a free thread, beyond what compiling may take, before the request is refused."""

_read = attrgetter(*FIELDS)
_NONE = (None,) * len(FIELDS)


async def requested_grammar(
    request: SamplingFields,
    timeout_s: float,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    check_room: Callable[[], None] = lambda: None,
) -> GrammarSpec | None:
    """The grammar that a request asks for, compiled once to see that it is one. Raises 400 naming the field.

    `max_bytes`: of the field as JSON; `max_depth`: of a schema. Compiling runs beside the event loop, for at most
    `timeout_s`, unless `check_room` objects. Raises EngineOverloadedError when too many do.
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
    known = _known()
    try:
        encoded = msgspec.json.encode((name, value))
    except RecursionError:
        raise invalid(f"{name} is nested too deeply.", name) from None
    if len(encoded) > max_bytes:
        raise invalid(f"{name} is larger than {max_bytes} bytes.", name)
    if not depth_within(value, max_depth + WRAPPERS):
        raise invalid(f"{name} is nested deeper than {max_depth} levels.", name)
    key = hashlib.blake2b(encoded, digest_size=16).digest()
    if (grammar := known.get(key)) is not None:
        return grammar
    check_room()
    loop = asyncio.get_running_loop()
    compiling = loop.run_in_executor(_threads(), _compiled, name, value, timeout_s)
    try:
        async with asyncio.timeout(timeout_s * 2 + SPARE_S):
            grammar = await compiling
    except TimeoutError:
        raise EngineOverloadedError("Too many grammars are being compiled. Please try again later.") from None
    if grammar is not None:
        known.add(key, grammar)
    return grammar


class _KnownGrammars:
    """The last grammars that could be compiled, by a digest of what was asked: good ones never wait behind bad ones.

    Used in the event loop alone.
    """

    def __init__(self) -> None:
        self._grammars: OrderedDict[bytes, GrammarSpec] = OrderedDict()
        self._chars = 0

    def get(self, key: bytes) -> GrammarSpec | None:
        grammar = self._grammars.get(key)
        if grammar is not None:
            self._grammars.move_to_end(key)
        return grammar

    def add(self, key: bytes, grammar: GrammarSpec) -> None:
        if key not in self._grammars:
            self._grammars[key] = grammar
            self._chars += len(grammar.text)
        while len(self._grammars) > MAX_KNOWN or self._chars > MAX_KNOWN_CHARS:
            self._chars -= len(self._grammars.popitem(last=False)[1].text)


@functools.cache
def _known() -> _KnownGrammars:
    return _KnownGrammars()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="grammar")


def _says_nothing(name: str, value: Any) -> bool:
    if name == "response_format":
        return value is None or (isinstance(value, dict) and value.get("type") == "text")
    return value is None or (name == "guided_json_object" and value is False)


def _compiled(name: str, value: Any, timeout_s: float) -> GrammarSpec | None:
    from adapters.grammars import response_format_grammar, structured_outputs_grammar  # not needed at start

    if name == "response_format":
        return response_format_grammar(value, timeout_s)
    if name == "structured_outputs":
        return structured_outputs_grammar(value, timeout_s=timeout_s)
    return structured_outputs_grammar({ALIASES[name]: value}, name, timeout_s)
