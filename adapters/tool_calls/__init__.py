"""Tool calls in a model's output: one parser a format, one state machine for streaming and whole replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from adapters.tool_calls import hermes, qwen_xml
from adapters.tool_calls.base import ToolCallParser

ToolFormat = Literal["hermes", "qwen_xml"]

CALL_TAGS: dict[ToolFormat, tuple[str, ...]] = {"hermes": hermes.CALL_TAGS, "qwen_xml": qwen_xml.CALL_TAGS}
"""The tags that begin a call."""


def tool_parser_factory(tool_format: ToolFormat, tools: Sequence[dict[str, Any]]) -> Callable[[], ToolCallParser]:
    """What makes a parser for each choice of a request with these tools."""
    if tool_format == "hermes":
        return lambda: hermes.HermesParser(tools)
    return lambda: qwen_xml.QwenXMLParser(tools)
