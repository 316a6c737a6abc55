"""What a chat template can take, found out by letting it render small conversations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapters.messages import TemplateTraits

Message = dict[str, Any]
Probe = Callable[[list[Message]], str | None]
"""Renders messages; None when the template refuses them."""

_USER: Message = {"role": "user", "content": "QUESTION"}
_PARTS = [{"type": "text", "text": "PART1"}, {"type": "text", "text": "PART2"}]


def find_traits(probe: Probe) -> TemplateTraits:
    """The traits of the template behind `probe`; neutral ones where a template refuses everything."""
    system: Message = {"role": "system", "content": "FIRSTRULE"}
    late = probe([system, _USER, {"role": "system", "content": "LATERULE"}, _USER])
    if probe([_USER]) is None:
        return TemplateTraits()
    shown = {
        (content, kind): _shows_call(probe, content, arguments)
        for content in ("", None)
        for kind, arguments in (("text", '{"key": "VALUE"'), ("object", {"key": "VALUE"}))
    }
    content = None if any(shown[None, kind] and not shown["", kind] for kind in ("text", "object")) else ""
    calls = shown[content, "text"] or shown[content, "object"]
    return TemplateTraits(
        late_system=late is not None and 0 <= late.find("FIRSTRULE") < late.find("QUESTION") < late.find("LATERULE"),
        text_arguments=shown[content, "text"] or not calls,
        object_arguments=shown[content, "object"] or not calls,
        null_call_content=content is None,
        part_separator="" if "PART1PART2" in (probe([{"role": "user", "content": _PARTS}]) or "") else "\n",
        needs_user=probe([system]) is None,
    )


def _shows_call(probe: Probe, content: str | None, arguments: object) -> bool:
    """Whether a turn of one tool call is rendered with its arguments."""
    call = {"id": "c", "type": "function", "function": {"name": "FUNCTION", "arguments": arguments}}
    text = probe([_USER, {"role": "assistant", "content": content, "tool_calls": [call]}, _USER])
    return text is not None and "FUNCTION" in text and "VALUE" in text
