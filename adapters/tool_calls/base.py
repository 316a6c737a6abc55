"""What the tool-call parsers have in common."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Protocol

from adapters.backend import ToolCallDelta


class ToolCallParser(Protocol):
    """Splits one choice's content into text and calls. Concatenated over all chunkings the results are the same.

    A call's first delta has id, name and empty arguments; the arguments' JSON text follows in pieces as it arrives.
    """

    num_calls: int
    """Calls begun so far."""

    def feed(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        """New text outside calls, and new pieces of calls."""
        ...

    def finish(self, *, complete: bool) -> tuple[str, list[ToolCallDelta]]:
        """The end of the output. `complete`: the model ended by itself, so that what it left open is closed."""
        ...


class ToolParserFactory(Protocol):
    """Makes a parser for one choice; `tools` are the request's, for the types of their parameters."""

    def __call__(self, tools: Sequence[dict[str, Any]]) -> ToolCallParser: ...


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"
