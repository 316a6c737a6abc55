"""Checks of what only chat requests have. Roles and content are checked where they are made fit for the template."""

from __future__ import annotations

import re
from typing import Any

from adapters.backend import ChatPrompt
from oai_server.errors import invalid
from oai_server.settings import Settings
from oai_server.wire.chat import ChatRequest
from oai_server.wire.depth import depth_within
from oai_server.wire.validate import too_long

EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
TOOL_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
MAX_SHOWN = 100
PARTS_PER_MESSAGE = 4
"""Parts and calls that a message may have on average in the longest conversation."""


def chat_prompt(request: ChatRequest, settings: Settings) -> ChatPrompt:
    """The conversation as the backend takes it. Raises 400 naming the field at fault."""
    if not request.messages:
        message = "Cannot apply chat template to an empty conversation. Provide at least one message."
        raise invalid(message, "messages")
    check_amount("messages", request.messages, settings)
    if request.chat_template is not None:
        raise invalid(
            "Chat template is passed with request, but templates of requests are not trusted. "
            "Refused request with untrusted chat template.",
            "chat_template",
        )
    continued = bool(request.continue_final_message)
    if continued and request.add_generation_prompt:
        message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        raise invalid(message, "continue_final_message")
    if request.reasoning_effort is not None and request.reasoning_effort not in EFFORTS:
        raise invalid(f"reasoning_effort must be one of {sorted(EFFORTS)}.", "reasoning_effort")
    choice, tools = _allowed(request.tool_choice, _tools(request.tools, settings))
    choice = _tool_choice(choice, tools)
    for name in ("chat_template_kwargs", "documents"):
        if not depth_within(getattr(request, name), settings.max_json_depth):
            raise invalid(f"{name} are nested too deeply.", name)
    return ChatPrompt(
        messages=tuple(request.messages),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        chat_template_kwargs={**settings.default_chat_template_kwargs, **(request.chat_template_kwargs or {})},
        add_generation_prompt=not continued and request.add_generation_prompt is not False,
        continue_final_message=continued,
        reasoning_effort=request.reasoning_effort,
        include_reasoning=request.include_reasoning is not False,
        documents=tuple(request.documents or ()),
    )


def check_amount(name: str, messages: list[dict[str, Any]], settings: Settings) -> None:
    """Of messages, and of their parts and calls together: each takes time before it is known what it says."""
    if len(messages) > settings.max_messages:
        raise too_long(name, settings.max_messages, len(messages))
    limit, parts = PARTS_PER_MESSAGE * settings.max_messages, 0
    for message in messages:
        for value in (message.get("content"), message.get("tool_calls")):
            if isinstance(value, list):
                parts += len(value)
    if parts > limit:
        raise invalid(f"All {name} together should have at most {limit} parts and calls, got {parts}.", name)


def _tools(tools: list[dict[str, Any]] | None, settings: Settings) -> tuple[dict[str, Any], ...]:
    """Function tools with distinct, plain names; an empty list counts as none."""
    if not tools:
        return ()
    if len(tools) > settings.max_tools:
        raise too_long("tools", settings.max_tools, len(tools))
    names: set[str] = set()
    for i, tool in enumerate(tools):
        _check_tool(f"tools[{i}]", tool, names, settings.max_json_depth)
    return tuple(tools)


def _check_tool(where: str, tool: dict[str, Any], names: set[str], max_depth: int) -> None:
    """`names`: of the tools before it; its own is added."""
    if tool.get("type", "function") != "function":
        raise invalid(f"{where}.type: only tools of type 'function' are supported.", f"{where}.type")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{where} must have a `function`.", f"{where}.function")
    where += ".function"
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise invalid(f"{where}.name must be 1 to 128 letters, digits or one of _ . : / -", f"{where}.name")
    if name in names:
        raise invalid(f"{where}.name {name!r} is used twice.", f"{where}.name")
    names.add(name)
    kinds = (("description", str, "a string"), ("strict", bool, "a boolean"), ("parameters", dict, "an object"))
    for key, wanted, words in kinds:
        if function.get(key) is not None and not isinstance(function[key], wanted):
            raise invalid(f"{where}.{key} must be {words}.", f"{where}.{key}")
    if not depth_within(function.get("parameters"), max_depth):
        raise invalid(f"{where}.parameters are nested too deeply.", f"{where}.parameters")


def _allowed(
    choice: str | dict[str, Any] | None, tools: tuple[dict[str, Any], ...]
) -> tuple[str | dict[str, Any] | None, tuple[dict[str, Any], ...]]:
    """`allowed_tools` as the choice that is its mode, and the tools that are left."""
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return choice, tools
    allowed = choice.get("allowed_tools")
    listed = allowed.get("tools") if isinstance(allowed, dict) else None
    functions = (
        [tool.get("function") for tool in listed if isinstance(tool, dict)] if isinstance(listed, list) else []
    )
    names = {name for f in functions if isinstance(f, dict) and isinstance(name := f.get("name"), str)}
    kept = tuple(tool for tool in tools if tool["function"]["name"] in names)
    mode = allowed.get("mode") if isinstance(allowed, dict) else None
    if not kept or mode not in ("auto", "required"):
        raise invalid(
            '`tool_choice.allowed_tools` must have a `mode` ("auto" or "required") and name some of the specified '
            "`tools`. (parameter=tool_choice)",
            "tool_choice",
        )
    return mode, kept


def _tool_choice(choice: str | dict[str, Any] | None, tools: tuple[dict[str, Any], ...]) -> str | dict[str, Any]:
    if choice is None:
        return "auto" if tools else "none"
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        raise invalid(
            f'Invalid value for `tool_choice`: {choice[:MAX_SHOWN]}! Only named tools, "none", "auto" or '
            '"required" are supported. (parameter=tool_choice)',
            "tool_choice",
        )
    if choice == "none" or (choice == "auto" and not tools):
        return "none"
    if not tools:
        raise invalid("When using `tool_choice`, `tools` must be set. (parameter=tool_choice)", "tool_choice")
    if isinstance(choice, dict):
        if choice.get("type", "function") != "function":
            message = '`tool_choice.type` must be "function" or "allowed_tools". (parameter=tool_choice)'
            raise invalid(message, "tool_choice")
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not any(tool["function"]["name"] == name for tool in tools):
            raise invalid(
                "The tool specified in `tool_choice` does not match any of the specified `tools` "
                "(parameter=tool_choice)",
                "tool_choice",
            )
    return choice
