"""POST /v1/messages, Anthropic's API: what is asked, and how it is said as a chat request."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from oai_server.errors import ApiError, invalid
from oai_server.wire.chat import ChatRequest
from oai_server.wire.message_blocks import chat_messages

THINKING = {"enabled": True, "adaptive": True, "disabled": False}
TOOL_CHOICES = ("auto", "any", "tool", "none")
NOT_HERE = ("container", "mcp_servers")
CHAT_FIELDS = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "continue_final_message": "messages",
}
"""What chat requests call the fields of these."""
TOOL_PLACE = re.compile(r"tools\[(\d+)\](?:\.function\b)?(?:\.(parameters)\b)?")


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    """All that the prompt is made of. null means the default everywhere. Unknown fields are ignored."""

    messages: list[dict[str, Any]]
    model: str | None = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    """The client's own; tools that only Anthropic's servers or models know are left out."""
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    """`type` is the template's switch; `budget_tokens` is not enforced."""
    output_config: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    container: Any = None
    mcp_servers: Any = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    max_tokens: int
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None

    # Not Anthropic's, and as in chat requests.
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    priority: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None


OWN = {"messages", "tools", "tool_choice", "chat_template_kwargs"}
SAME = tuple(
    name for name in MessagesRequest.__struct_fields__ if name in ChatRequest.__struct_fields__ and name not in OWN
)
"""Fields that mean the same in both."""


def chat_request(request: CountTokensRequest) -> ChatRequest:
    """The same request as a chat. Raises 400 naming the field at fault."""
    for name in NOT_HERE:
        if getattr(request, name):
            raise invalid(f"`{name}` is not supported by this server.", name, "unsupported_parameter")
    messages = chat_messages(request.system, request.messages)
    last = messages[-1] if messages else {}
    choice, parallel = _tool_choice(request)
    fields = {name: getattr(request, name) for name in SAME if hasattr(request, name)}
    fields |= {
        "messages": messages,
        "tools": [_chat_tool(i, request) for i in _kept(request)] or None,
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
        "chat_template_kwargs": _template_kwargs(request),
        "stop": getattr(request, "stop_sequences", None),
        "response_format": _response_format(request.output_config),
        "reasoning_effort": _effort(request.output_config),
        "continue_final_message": last.get("role") == "assistant" and "tool_calls" not in last,
    }
    return ChatRequest(**fields)


def own_error(request: CountTokensRequest, error: ApiError) -> ApiError:
    """The error of the chat request, in the names of this one."""
    kept = _kept(request)

    def own_place(found: re.Match[str]) -> str:
        position = int(found[1])
        place = f"tools[{kept[position] if position < len(kept) else position}]"
        return f"{place}.input_schema" if found[2] else place

    param, message = TOOL_PLACE.sub(own_place, error.param or ""), TOOL_PLACE.sub(own_place, error.message)
    name = param.partition("[")[0].partition(".")[0]
    if name in CHAT_FIELDS:
        param, message = param.replace(name, CHAT_FIELDS[name]), message.replace(name, CHAT_FIELDS[name])
    return ApiError(error.status, message, param=param or None, code=error.code, headers=error.headers)


def _kept(request: CountTokensRequest) -> list[int]:
    """Positions of the client's own tools."""
    return [i for i, tool in enumerate(request.tools or ()) if tool.get("type") in (None, "custom")]


def _chat_tool(position: int, request: CountTokensRequest) -> dict[str, Any]:
    tool = (request.tools or [])[position]
    if not isinstance(tool.get("input_schema"), dict):
        where = f"tools[{position}].input_schema"
        raise invalid(f"{where} must be an object.", where)
    function = {name: tool[name] for name in ("name", "description", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}


def _tool_choice(request: CountTokensRequest) -> tuple[str | dict[str, Any] | None, bool]:
    """As a chat has it, and whether several calls are allowed at once."""
    choice = request.tool_choice
    if choice is None:
        return None, True
    kind, single = choice.get("type"), choice.get("disable_parallel_tool_use")
    if kind not in TOOL_CHOICES:
        raise invalid(f"tool_choice.type must be one of {', '.join(TOOL_CHOICES)}.", "tool_choice.type")
    if single is not None and not isinstance(single, bool):
        where = "tool_choice.disable_parallel_tool_use"
        raise invalid(f"{where} must be a boolean.", where)
    if kind == "tool":
        if not isinstance(name := choice.get("name"), str):
            raise invalid("tool_choice.name must be a string.", "tool_choice.name")
        return {"type": "function", "function": {"name": name}}, not single
    if request.tools and not _kept(request):
        return None, not single  # what was left out cannot be called
    return "required" if kind == "any" else str(kind), not single


def _template_kwargs(request: CountTokensRequest) -> dict[str, Any] | None:
    if request.thinking is None:
        return request.chat_template_kwargs
    kind = request.thinking.get("type")
    if not isinstance(kind, str) or kind not in THINKING:
        raise invalid(f"thinking.type must be one of {', '.join(THINKING)}.", "thinking.type")
    budget = request.thinking.get("budget_tokens")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
        raise invalid("thinking.budget_tokens must be a non-negative integer.", "thinking.budget_tokens")
    return {"enable_thinking": THINKING[kind], **(request.chat_template_kwargs or {})}


def _response_format(config: dict[str, Any] | None) -> dict[str, Any] | None:
    wanted = (config or {}).get("format")
    if wanted is None:
        return None
    if (
        not isinstance(wanted, dict)
        or wanted.get("type") != "json_schema"
        or not isinstance(wanted.get("schema"), dict)
    ):
        message = "output_config.format must have the type 'json_schema' and an object as its `schema`."
        raise invalid(message, "output_config.format")
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": wanted["schema"]}}


def _effort(config: dict[str, Any] | None) -> str | None:
    effort = (config or {}).get("effort")
    if effort is not None and not isinstance(effort, str):
        raise invalid("output_config.effort must be a string.", "output_config.effort")
    return effort
