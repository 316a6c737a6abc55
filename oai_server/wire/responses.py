"""POST /v1/responses: what is asked, and how it is said as a chat request. Nothing is stored between requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from oai_server.errors import ApiError, invalid
from oai_server.wire.chat import ChatRequest
from oai_server.wire.depth import depth_within

LOGPROBS = "message.output_text.logprobs"
STATELESS = "This server stores no responses; send the whole conversation as `input`."
UNSUPPORTED = ("previous_response_id", "conversation", "prompt", "background")
REPEATED = ("metadata", "reasoning", "text", "tool_choice", "tools")
"""Fields of any depth that the reply holds again."""
MAX_DEPTH = 128
MAX_REPEATED_BYTES = 4 << 20
"""Of each of these."""
CHAT_FIELDS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""What chat requests call the fields of these."""
CHAT_PLACE = re.compile(r"(messages|tools)\[(\d+)\](?:\.function(?=\.))?")


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """null means the default everywhere. Unknown fields are ignored."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    """Functions; tools that only OpenAI's own servers run are left out."""
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    stream: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    priority: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


SAME = tuple(name for name in ResponsesRequest.__struct_fields__ if name in ChatRequest.__struct_fields__)
"""Fields that mean the same in both; `tools` and `tool_choice` are spelled differently."""


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class InputTokens(msgspec.Struct, frozen=True):
    input_tokens: int
    object: str = "response.input_tokens"


class ResponseBody(msgspec.Struct, frozen=True, kw_only=True):
    """The reply; clients read the settings that it repeats."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
    error: None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    model: str
    output: list[dict[str, Any]] = []
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: dict[str, Any]
    service_tier: Literal["default"] = "default"
    store: bool = False
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int | None
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    background: bool = False
    usage: ResponseUsage | None = None


def response_body(request: ResponsesRequest, reply_id: str, created_s: int, model: str) -> ResponseBody:
    """The reply before its first token."""
    return ResponseBody(
        id=reply_id,
        created_at=created_s,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        reasoning={"effort": None, "summary": None, **(request.reasoning or {})},
        temperature=request.temperature,
        text={"format": {"type": "text"}, **(request.text or {})},
        tool_choice=request.tool_choice or "auto",
        tools=[{"parameters": None, "strict": False, **tool} for tool in request.tools or []],
        top_logprobs=request.top_logprobs,
        top_p=request.top_p,
    )


def chat_request(request: ResponsesRequest) -> ChatRequest:
    """The same request as a chat. Raises 400 for what needs a store, and for items that are none."""
    for name in UNSUPPORTED:
        if getattr(request, name):
            raise invalid(f"`{name}` is not supported. {STATELESS}", name, "unsupported_parameter")
    for name in REPEATED:
        _check_repeated(name, getattr(request, name))
    for i, tool in enumerate(request.tools or ()):
        if not isinstance(tool.get("type"), str):
            raise invalid(f"tools[{i}].type must be a string.", f"tools[{i}].type")
    wants_logprobs = LOGPROBS in (request.include or ()) or bool(request.top_logprobs)
    tools = [_chat_tool(tool) for tool in request.tools or [] if tool.get("type") == "function"]
    fields = {name: getattr(request, name) for name in SAME}
    fields |= {
        "messages": [message for message, _ in _placed_messages(request)],
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": wants_logprobs,
        "top_logprobs": request.top_logprobs if wants_logprobs else None,
        "tools": tools or None,
        "tool_choice": _chat_tool_choice(request.tool_choice, tools),
        "response_format": _response_format(request.text),
        "reasoning_effort": _string((request.reasoning or {}).get("effort"), "reasoning.effort"),
    }
    return ChatRequest(**fields)


def _check_repeated(name: str, value: object) -> None:
    if not value:
        return
    try:
        size = len(msgspec.json.encode(value))
    except RecursionError:
        size = 0
    if size > MAX_REPEATED_BYTES:
        raise invalid(f"{name} may have at most {MAX_REPEATED_BYTES} bytes.", name)
    if not size or not depth_within(value, MAX_DEPTH):
        raise invalid(f"{name} is nested too deeply.", name)


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    return tool if "function" in tool else {"type": "function", "function": {k: tool[k] for k in tool if k != "type"}}


def _chat_tool_choice(
    choice: str | dict[str, Any] | None, tools: list[dict[str, Any]]
) -> str | dict[str, Any] | None:
    if isinstance(choice, str) or choice is None:
        return choice if tools else None  # what was left out cannot be called
    if choice.get("type") == "allowed_tools":
        listed = choice.get("tools")
        allowed = [_chat_tool(t) for t in listed if isinstance(t, dict)] if isinstance(listed, list) else []
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": allowed}}
    return {**_chat_tool(choice), "type": choice.get("type")}


def _response_format(text: dict[str, Any] | None) -> dict[str, Any] | None:
    wanted = (text or {}).get("format")
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return wanted
    return {"type": "json_schema", "json_schema": {k: v for k, v in wanted.items() if k != "type"}}


def _string(value: object, param: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise invalid(f"{param} must be a string.", param)
    return value


def own_error(request: ResponsesRequest, error: ApiError) -> ApiError:
    """The error of the chat request, in the names and places of this one."""

    def own_place(found: re.Match[str]) -> str:
        position = int(found[2])
        if found[1] == "messages":
            places = [place for _, place in _placed_messages(request)]
            return places[position] if position < len(places) else "input"
        kept = [i for i, tool in enumerate(request.tools or ()) if tool.get("type") == "function"]
        return f"tools[{kept[position] if position < len(kept) else position}]"

    param, message = CHAT_PLACE.sub(own_place, error.param or ""), CHAT_PLACE.sub(own_place, error.message)
    for name, own in CHAT_FIELDS.items():
        if param.startswith(name):
            param = own + param.removeprefix(name)
        message = message.replace(name, own) if param.startswith(own) else message
    return ApiError(error.status, message, param=param or None, code=error.code, headers=error.headers)


# ---- input items


def _placed_messages(request: ResponsesRequest) -> list[tuple[dict[str, Any], str]]:
    """Chat messages, each with the place that it has in this request."""
    placed: list[tuple[dict[str, Any], str]] = []
    if request.instructions:
        placed.append(({"role": "system", "content": request.instructions}, "instructions"))
    if isinstance(request.input, str):
        return [*placed, ({"role": "user", "content": request.input}, "input")]
    thought = ""
    for position, item in enumerate(request.input):
        if item.get("type") == "reasoning":
            thought = _thought(item)
            continue
        message = _message(item, f"input[{position}]")
        if message["role"] == "assistant":
            if thought:
                message["reasoning_content"], thought = thought, ""
            elif "tool_calls" in message and placed and placed[-1][0]["role"] == "assistant":
                placed[-1][0].setdefault("tool_calls", []).extend(message["tool_calls"])
                continue
        placed.append((message, f"input[{position}]"))
    return placed or [({"role": "user", "content": ""}, "input")]


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "message":
        return {"role": item.get("role"), "content": item.get("content")}
    if kind in ("function_call", "custom_tool_call"):
        function = {"name": item.get("name"), "arguments": item.get("arguments", item.get("input"))}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind in ("function_call_output", "custom_tool_call_output"):
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    if kind == "item_reference":
        raise invalid(f"{where}: items cannot be referred to. {STATELESS}", where)
    raise invalid(f"{where}.type {str(kind)[:100]!r} is not supported.", f"{where}.type")


def _thought(item: Mapping[str, Any]) -> str:
    parts = item.get("content") or item.get("summary") or []
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "\n".join(text for text in texts if isinstance(text, str))
