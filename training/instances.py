# ruff: noqa: E501 - tables of phrases, one a line
"""Held-out instances for evaluation, and what counts as a right reply."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from training.conversation import SYSTEMS, TASKS, Conversation, any_task
from training.core import Context, Message
from training.rendering import answer_text
from training.tasks import greetings, memory, tools
from training.tasks.tool_catalog import COMMON, OBJECTS, PARAMETERS

CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
WORD = re.compile(r"[A-Z]?[a-z]+")


@dataclass(frozen=True, slots=True)
class Instance:
    task: str
    conversation: Conversation
    """With the right answer as its last message."""

    @property
    def expected(self) -> Message:
        return self.conversation.messages[-1]

    def right(self, reply: str) -> bool:
        """Whether the reply (without special tokens) is right: equal, or equal as JSON, or one of the greetings."""
        reply = reply.rpartition("</think>")[2].strip()
        if self.expected.calls:
            return calls_of(reply) == self.expected.calls
        if self.task.startswith("hello"):
            return reply in greetings.HELLO_ANSWERS + greetings.HELLO_ANSWERS_ZH
        if self.task == "to_json":
            return _loaded(reply) == json.loads(self.expected.content)
        return reply == answer_text(self.expected).strip()


FREE = {"story"}
"""Tasks with no single right reply: only whether the reply ends by itself is counted."""


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def calls_of(reply: str) -> list[Any] | None:
    """The tool calls in the reply, None if one of them cannot be read."""
    calls = [_loaded(body) for body in CALL.findall(reply)]
    return None if None in calls else calls


def _chat(task: str) -> Callable[[Context], Conversation]:
    def make(c: Context) -> Conversation:
        earlier = any_task(c.switched(test=False)) if c.chance(0.25) else []
        return Conversation([*earlier, *TASKS[task][0](c)], c.r.choice(SYSTEMS) if c.chance(0.3) else "")

    return make


def _greeting(task: str, *, zh: bool) -> Callable[[Context], Conversation]:
    return lambda c: Conversation(TASKS[task][0](c.switched(zh=zh, answer_zh=zh)))


def _memory(c: Context) -> Conversation:
    """Two or three facts, other talk in between, one question about an unseen name, town or code."""
    while True:
        told, asked = memory.facts_to_recall(c, c.r.choice((2, 3)))
        answer = asked[0][-1].content
        if any(
            word in answer for word in ("name is", "called", "live in", "It is", "number", "你叫", "叫", "住在", "是")
        ):
            break
    between = [any_task(c.switched(test=False)) for _ in range(c.r.choice((0, 1, 2, 3)))]
    return Conversation([m for item in [*told, *between, asked[0]] for m in item])


def _tool_choice(c: Context) -> Conversation:
    exchange, offered = tools.tool_use(c, with_result=False)
    while len(offered) < 2 or offered[0].common is not None:
        exchange, offered = tools.tool_use(c, with_result=False)
    return Conversation(exchange, "", [tool.schema(c) for tool in offered])


def _unseen_tool(c: Context) -> Conversation:
    """As above, where neither the called tool's object nor any of its arguments' names is in a list of the generator."""
    known = {word.lower() for thing, _ in OBJECTS for word in thing.split()} | {name for name, *_ in PARAMETERS}
    well_known = {name for entry in COMMON for name in entry.names.split()}
    while True:
        conversation = _tool_choice(c)
        call = conversation.messages[-1].calls[0]
        words = WORD.findall(call["name"])[:2] + list(call["arguments"])
        if call["arguments"] and call["name"] not in well_known and not any(word.lower() in known for word in words):
            return conversation


def _tools(*, result: bool) -> Callable[[Context], Conversation]:
    def make(c: Context) -> Conversation:
        exchange, offered = tools.tool_use(c, with_result=result)
        return Conversation(exchange, "", [tool.schema(c) for tool in offered])

    return make


def _no_tool(c: Context) -> Conversation:
    exchange, offered = tools.no_fitting_tool(c)
    return Conversation(exchange, "", [tool.schema(c) for tool in offered])


def _beside_tools(c: Context) -> Conversation:
    _, offered = tools.tool_use(c, with_result=False)
    task = c.r.choice(("who_are_you", "reverse", "to_json"))
    return Conversation(TASKS[task][0](c), "", [tool.schema(c) for tool in offered])


def _thinking(task: str) -> Callable[[Context], Conversation]:
    def make(c: Context) -> Conversation:
        return Conversation(TASKS[task][0](c), "", thinking=True)

    return make


EVALUATED: dict[str, Callable[[Context], Conversation]] = {
    "count_range": _chat("count_range"),
    "how_many": _chat("how_many"),
    "addition": _chat("addition"),
    "arithmetic": _chat("arithmetic"),
    "multiply": _chat("multiply"),
    "divide": _chat("divide"),
    "compare": _chat("compare"),
    "word_problem": _chat("word_problem"),
    "units": _chat("units"),
    "reverse": _chat("reverse"),
    "sort": _chat("sort"),
    "pick_item": _chat("pick_item"),
    "spell": _chat("spell"),
    "letter_case": _chat("letter_case"),
    "repeat": _chat("repeat"),
    "facts_in_prompt": _chat("facts_in_prompt"),
    "key_values": _chat("key_values"),
    "to_json": _chat("to_json"),
    "recall_across_turns": _memory,
    "tool_choice_and_arguments": _tool_choice,
    "tool_with_made_up_names": _unseen_tool,
    "tool_calls_all": _tools(result=False),
    "answer_from_tool_result": _tools(result=True),
    "no_fitting_tool": _no_tool,
    "no_tool_needed": _beside_tools,
    "thinking_addition": _thinking("addition"),
    "thinking_reverse": _thinking("reverse"),
    "code": _chat("code"),
    "story": _chat("story"),
    "unknown": _chat("unknown"),
    "hello_english": _greeting("hello", zh=False),
    "hello_chinese": _greeting("hello", zh=True),
    "who_are_you_english": _greeting("who_are_you", zh=False),
    "who_are_you_chinese": _greeting("who_are_you", zh=True),
    "small_talk_english": _greeting("small_talk", zh=False),
    "small_talk_chinese": _greeting("small_talk", zh=True),
}
BARS = {
    "count_range": 0.95, "how_many": 0.95, "addition": 0.95, "reverse": 0.95, "to_json": 0.95, "recall_across_turns": 0.95,
    "tool_choice_and_arguments": 0.95, "hello_english": 1.0, "hello_chinese": 1.0, "who_are_you_english": 1.0, "who_are_you_chinese": 1.0,
}  # fmt: skip


def instances(count: int, tasks: list[str] | None = None, seed: int = 7) -> Iterator[Instance]:
    """`count` held-out instances of each task, always the same ones; a third in Chinese where the task has no language."""
    for task in tasks or EVALUATED:
        for number in range(count):
            r = random.Random(f"evaluation-{seed}-{task}-{number}")
            zh = r.random() < 0.33
            yield Instance(task, EVALUATED[task](Context(r, zh, zh, test=True)))


@dataclass(slots=True)
class Score:
    count: int = 0
    right: int = 0
    ended: int = 0

    def add(self, *, right: bool, ended: bool) -> None:
        self.count, self.right, self.ended = self.count + 1, self.right + right, self.ended + ended
