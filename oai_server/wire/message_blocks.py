"""A conversation in Anthropic's blocks, said as chat messages. Nothing in it is ever fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oai_server.errors import ApiError, invalid

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "ctx": "user", "msg": "user"}
"""Of the API, and what Claude Code sends beside them. System messages stay where they are: moved to the front they
would change the prompt's beginning, which is in the prefix cache."""
ATTRIBUTION = "x-anthropic-billing-header"
"""Claude Code's system prompt begins with a block of this name that differs in every request, and would keep all that
follows it out of the prefix cache."""
MEDIA = ("image", "document", "audio", "video", "file")

Block = tuple[str, dict[str, Any], str]
"""Its type, itself, and its place in the request."""
Content = str | list[dict[str, str]]


def chat_messages(system: str | list[dict[str, Any]] | None, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Raises 400 naming the block at fault."""
    found = [_system(system, "system")] if system else []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise invalid(f"{where}.role must be 'user', 'assistant' or 'system'.", f"{where}.role")
        content, place = message.get("content"), f"{where}.content"
        if ROLES[role] == "system":
            found.append(_system(content, place))
        elif ROLES[role] == "assistant":
            found.append(_assistant(content, place))
        else:
            found += _user(content, place)
    return found


def _system(content: object, where: str) -> dict[str, Any]:
    texts = [_text(block) for block in _blocks(content, where)]
    return {"role": "system", "content": _joined([text for text in texts if not text.startswith(ATTRIBUTION)])}


def _user(content: object, where: str) -> Iterator[dict[str, Any]]:
    """Each tool's result is a message of its own."""
    texts: list[str] = []
    results = 0
    for block in _blocks(content, where):
        if block[0] != "tool_result":
            texts.append(_text(block))
            continue
        if texts:
            yield {"role": "user", "content": _joined(texts)}
            texts = []
        results += 1
        yield _tool_result(block)
    if texts or not results:
        yield {"role": "user", "content": _joined(texts)}


def _tool_result(block: Block) -> dict[str, Any]:
    _, fields, where = block
    content = fields.get("content")
    texts = [] if content is None else [_text(part) for part in _blocks(content, f"{where}.content")]
    text = "\n".join(texts)
    if fields.get("is_error") is True and not text.lstrip().lower().startswith("error"):
        text = f"Error: {text}"  # templates have no other place for it
    return {"role": "tool", "tool_call_id": _string(block, "tool_use_id"), "content": text}


def _assistant(content: object, where: str) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for block in _blocks(content, where):
        kind, fields, place = block
        if kind == "thinking":
            thoughts.append(_string(block, "thinking"))
        elif kind == "tool_use":
            arguments = fields.get("input")
            if arguments is not None and not isinstance(arguments, dict):
                raise invalid(f"{place}.input must be an object.", f"{place}.input")
            function = {"name": _string(block, "name"), "arguments": arguments or {}}
            calls.append({"id": _string(block, "id"), "type": "function", "function": function})
        elif kind != "redacted_thinking":  # nobody but its maker can read that
            texts.append(_text(block))
    message: dict[str, Any] = {"role": "assistant", "content": _joined(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _blocks(content: object, where: str) -> list[Block]:
    if isinstance(content, str):
        return [("text", {"text": content}, where)]
    if not isinstance(content, list):
        raise invalid(f"{where} must be a string or a list of blocks.", where)
    found = []
    for i, block in enumerate(content):
        place = f"{where}[{i}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            raise invalid(f"{place} must be an object with a `type`.", place)
        found.append((kind, block, place))
    return found


def _text(block: Block) -> str:
    kind, _, where = block
    if kind != "text":
        raise _unsupported(kind, where)
    return _string(block, "text")


def _unsupported(kind: str, where: str) -> ApiError:
    if kind in MEDIA:
        return invalid(f"{where}: this model reads text only; {kind} blocks are not supported.", where)
    return invalid(f"{where}.type: blocks of type {kind[:100]!r} are not supported here.", f"{where}.type")


def _string(block: Block, name: str) -> str:
    _, fields, where = block
    value = fields.get(name)
    if not isinstance(value, str):
        raise invalid(f"{where}.{name} must be a string.", f"{where}.{name}")
    return value


def _joined(texts: list[str]) -> Content:
    """Several parts stay parts: what stands between them is the template's affair."""
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts] if texts else ""
