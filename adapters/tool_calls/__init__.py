"""Tool calls in a model's output: one parser a format, one state machine for streaming and whole replies.

`base` has what the formats share; `hermes` reads JSON between tags (with `json_scanner`), `qwen_xml` reads tags
(with `parameter_types`, since there the schema says what a value is in JSON).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from adapters.tool_calls.base import ToolCallParser
from adapters.tool_calls.hermes import HermesParser
from adapters.tool_calls.qwen_xml import QwenXMLParser

ToolFormat = Literal["hermes", "qwen_xml"]

PARSERS: dict[ToolFormat, type[HermesParser] | type[QwenXMLParser]] = {
    "hermes": HermesParser,
    "qwen_xml": QwenXMLParser,
}


def tool_parser_factory(tool_format: ToolFormat, tools: Sequence[dict[str, Any]]) -> Callable[[], ToolCallParser]:
    """What makes a parser for each choice of a request with these tools."""
    return partial(PARSERS[tool_format], tools)
