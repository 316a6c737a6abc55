"""Clients' messages made fit for Qwen's chat templates, which know less than OpenAI's clients send.

Developer becomes system, several system messages become one, content is a string, tool arguments are an object, and
only the keys that templates know are handed on. What cannot be rendered is a RequestError that names its place.
Nothing found in a message is ever fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.errors import RequestError

logger = logging.getLogger(__name__)

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_MEDIA = ("image", "audio", "video", "file", "document")


class TemplateTraits(msgspec.Struct, frozen=True):
    """What a template can take, found out by rendering probes (template_probes)."""

    late_system: bool = True
    """A system message behind the first turn is rendered where it stands; else it is merged into the first."""
    text_arguments: bool = True
    """A tool call's arguments may be a string; else what is no object is wrapped into one."""
    object_arguments: bool = True
    """A tool call's arguments may be an object; else they are handed over as JSON text."""
    null_call_content: bool = False
    """A turn of tool calls alone must have content null; else it is the empty string."""
    part_separator: str = "\n"
    """Between a content's text parts."""
    needs_user: bool = False
    """A conversation without a user turn is refused; an empty one is put in."""


def normalise_messages(messages: Sequence[object], traits: TemplateTraits) -> list[dict[str, Any]]:
    """A new list of plain messages: role, content (str), reasoning_content, tool_calls, tool_call_id, name.

    Raises RequestError with param `messages`, `messages[i].role` or `messages[i].content[j]`.
    """
    if not messages:
        raise RequestError(
            "Cannot apply chat template to an empty conversation. Provide at least one message.", "messages"
        )
    plain = _merge_system([_message(message, i, traits) for i, message in enumerate(messages)], traits)
    if traits.needs_user and not any(message["role"] == "user" for message in plain):
        plain.insert(1 if plain[0]["role"] == "system" else 0, {"role": "user", "content": ""})
    return plain


def normalise_tools(tools: Sequence[object]) -> list[dict[str, Any]]:
    """Function tools in the spelling that models are trained on. Raises RequestError with param `tools[i]...`."""
    plain = []
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
            raise RequestError(f"tools[{i}]: only tools of type 'function' are supported.", f"tools[{i}].type")
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise RequestError(f"tools[{i}].function needs a name.", f"tools[{i}].function.name")
        kept = {key: function[key] for key in ("name", "description", "parameters") if function.get(key) is not None}
        if isinstance(kept.get("parameters"), Mapping):  # which JSON Schema draft it is says nothing to a model
            kept["parameters"] = {key: value for key, value in kept["parameters"].items() if key != "$schema"}
        plain.append({"type": "function", "function": kept})
    return plain


def _merge_system(messages: list[dict[str, Any]], traits: TemplateTraits) -> list[dict[str, Any]]:
    """One system message, in front. Texts are joined by an empty line."""
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    system, rest = messages[:leading], messages[leading:]
    if not traits.late_system:
        system += [message for message in rest if message["role"] == "system"]
        rest = [message for message in rest if message["role"] != "system"]
    if len(system) > 1:
        text = "\n\n".join(message["content"] for message in system if message["content"])
        system = [{"role": "system", "content": text}]
    return system + rest


def _message(message: object, i: int, traits: TemplateTraits) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"messages[{i}] must be an object.", f"messages[{i}]")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(f"'{name}'" for name in ROLES)
        raise RequestError(f"messages[{i}].role must be one of {known}.", f"messages[{i}].role")
    content = message.get("content")
    if role == "user" and (content is None or content == []):  # others may say nothing: an assistant that only calls
        raise RequestError(f"messages[{i}].content of a user must not be missing.", f"messages[{i}].content")
    plain: dict[str, Any] = {"role": ROLES[role], "content": _text(content, i, traits)}
    if role == "assistant":
        reasoning = next((r for r in map(message.get, ("reasoning_content", "reasoning")) if isinstance(r, str)), "")
        if reasoning:
            plain["reasoning_content"] = plain["reasoning"] = reasoning
        if not plain["content"] and isinstance(refusal := message.get("refusal"), str):
            plain["content"] = refusal
        if calls := _tool_calls(message, i, traits):
            plain["tool_calls"] = calls
            if traits.null_call_content and not plain["content"]:
                plain["content"] = None
    for key in ("tool_call_id", "name"):
        if isinstance(value := message.get(key), str):
            plain[key] = value
    return plain


def _text(content: object, i: int, traits: TemplateTraits) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise RequestError(f"messages[{i}].content must be a string or a list of parts.", f"messages[{i}].content")
    return traits.part_separator.join([_part(part, f"messages[{i}].content[{j}]") for j, part in enumerate(content)])


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and isinstance(kind, str):
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str) and kind in ("text", "input_text", "output_text", "refusal"):
            return text
        media = next((name for name in _MEDIA if name in kind), None)
        if media is not None:
            raise RequestError(f"{where}: this model reads text only and does not support {media} input.", where)
    raise RequestError(f"{where} must be a text part: {{'type': 'text', 'text': string}}.", where)


def _tool_calls(message: Mapping[str, Any], i: int, traits: TemplateTraits) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    if calls is None and isinstance(message.get("function_call"), Mapping):
        calls = [{"function": message["function_call"]}]
    if calls is None:
        return []
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise RequestError(f"messages[{i}].tool_calls must be a list.", f"messages[{i}].tool_calls")
    return [_tool_call(call, f"messages[{i}].tool_calls[{j}]", traits) for j, call in enumerate(calls)]


def _tool_call(call: object, where: str, traits: TemplateTraits) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise RequestError(f"{where} must be an object.", where)
    function = call.get("custom") or call.get("function", call)
    if not isinstance(function, Mapping):
        raise RequestError(f"{where}.function must be an object.", where)
    arguments = {"input": function.get("input")} if "custom" in call else function.get("arguments")
    name, call_id = function.get("name"), call.get("id")
    return {
        "id": call_id if isinstance(call_id, str) else "",
        "type": "function",
        "function": {"name": name if isinstance(name, str) else "", "arguments": _arguments(arguments, traits)},
    }


def _arguments(arguments: object, traits: TemplateTraits) -> object:
    """The arguments as an object; what a client stored of a model's broken JSON must not block its conversation."""
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            logger.debug("a tool call's arguments are no JSON; they are rendered as text")
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    if not isinstance(arguments, Mapping) and not (isinstance(arguments, str) and traits.text_arguments):
        arguments = {"arguments": arguments}
    if traits.object_arguments or isinstance(arguments, str):
        return arguments
    return msgspec.json.encode(arguments).decode()
