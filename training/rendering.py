"""Conversations as the chat template writes them, with the parts to learn from marked."""

from __future__ import annotations

import json

from training.conversation import Conversation
from training.core import Message

TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
OPEN_THINK = "<think>\n"
NO_THINK = "<think>\n\n</think>\n\n"

Segment = tuple[str, bool]
"""A piece of text, and whether the model learns to write it."""


def _head(conversation: Conversation) -> str:
    if not conversation.tools:
        return f"<|im_start|>system\n{conversation.system}<|im_end|>\n" if conversation.system else ""
    system = conversation.system + "\n\n" if conversation.system else ""
    listed = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in conversation.tools)
    return f"<|im_start|>system\n{system}{TOOLS_HEAD}{listed}{TOOLS_TAIL}<|im_end|>\n"


def answer_text(message: Message) -> str:
    """What the assistant writes after its thinking."""
    calls = []
    for call in message.calls:
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        calls.append(f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {arguments}}}\n</tool_call>')
    return "\n".join([message.content, *calls] if message.content else calls)


def segments(conversation: Conversation) -> list[Segment]:
    """The whole training document, last answer included, exactly as the chat template would have led to it."""
    messages = conversation.messages
    last_query = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    out: list[Segment] = [(_head(conversation), False)]
    for i, message in enumerate(messages):
        if message.role == "assistant":
            out += _assistant(message, conversation.thinking, after=i > last_query, last=i == len(messages) - 1)
        elif message.role == "tool":
            first = messages[i - 1].role != "tool"
            final = i + 1 == len(messages) or messages[i + 1].role != "tool"
            body = f"\n<tool_response>\n{message.content}\n</tool_response>"
            out.append((("<|im_start|>user" if first else "") + body + ("<|im_end|>\n" if final else ""), False))
        else:
            out.append((f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n", False))
    return out


def _assistant(message: Message, thinking: bool, *, after: bool, last: bool) -> list[Segment]:
    out: list[Segment] = [("<|im_start|>assistant\n", False)]
    learnt = answer_text(message) + "<|im_end|>"
    if thinking and after:
        out.append((OPEN_THINK, False))
        learnt = f"{message.think}\n</think>\n\n{learnt}"
    elif last:
        out.append((NO_THINK, False))
    return [*out, (learnt, True), ("\n", False)]


def prompt_of(conversation: Conversation) -> str:
    """Everything before the last answer: what a server would be asked to continue."""
    parts = segments(conversation)
    last = max(i for i, (_, learnt) in enumerate(parts) if learnt)
    return "".join(text for text, _ in parts[:last])
