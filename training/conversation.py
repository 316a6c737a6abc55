# ruff: noqa: E501 - tables of phrases, one a line
"""Conversations: tasks mixed into dialogues, under system prompts, with and without tools."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from training.core import Context, Exchange, Message, exchange
from training.tasks import extraction, greetings, knowledge, lists, memory, numbers, text, tools, writing
from training.words import CITIES, made_up_word

Task = Callable[[Context], Exchange]
TASKS: dict[str, tuple[Task, float]] = {
    "hello": (greetings.hello, 2.0), "who_are_you": (greetings.who_are_you, 2.5), "small_talk": (greetings.small_talk, 3.0),
    "count_range": (numbers.count_range, 5.0), "addition": (numbers.addition, 6.0), "arithmetic": (numbers.add_or_subtract, 5.0), "multiply": (numbers.multiply, 5.0), "divide": (numbers.divide, 1.0),
    "compare": (numbers.compare, 1.5), "units": (numbers.units, 2.0), "word_problem": (numbers.word_problem, 1.5),
    "reverse": (lists.reverse, 6.5), "sort": (lists.sort, 5.5), "how_many": (lists.how_many, 3.5), "pick_item": (lists.pick_item, 2.0), "edit_list": (lists.edit, 1.5), "follow_up": (lists.follow_up, 1.0),
    "spell": (text.spell, 4.0), "letter_case": (text.letter_case, 2.5), "plurals": (text.plurals, 1.0), "repeat": (text.repeat, 2.5), "replace_word": (text.replace_word, 1.5), "count_words": (text.count_words, 1.0),
    "capital": (knowledge.capital, 1.5), "translate": (knowledge.translate, 2.0), "opposite": (knowledge.opposite, 0.6), "everyday": (knowledge.everyday, 1.5), "fact": (knowledge.fact, 1.5),
    "unknown": (knowledge.unknown, 3.0), "nonsense": (knowledge.nonsense, 1.0),
    "facts_in_prompt": (memory.facts_in_prompt, 6.5), "key_values": (memory.key_values, 2.5), "never_told": (memory.never_told, 0.4),
    "to_json": (extraction.to_json, 9.0), "story": (writing.story, 1.3), "code": (writing.code, 1.3),
}  # fmt: skip
_NAMES = list(TASKS)
_WEIGHTS = [weight for _, weight in TASKS.values()]
_BESIDE_TOOLS = (
    "hello",
    "who_are_you",
    "small_talk",
    "reverse",
    "sort",
    "spell",
    "count_range",
    "to_json",
    "repeat",
    "facts_in_prompt",
    "capital",
    "how_many",
)
"""Tasks that stay the assistant's own when tools are offered."""
LITERAL = {
    "to_json",
    "code",
    "letter_case",
    "repeat",
    "story",
    "replace_word",
    "spell",
    "plurals",
    "translate",
    "edit_list",
}
"""Tasks whose answers no system prompt may dress up."""

SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You are a friendly assistant.", "You are an assistant.", "You are a demo model.", "You are a useful AI assistant.", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "Be helpful.", "Help the user.", "You answer questions.", "You are a chatbot that helps people.", "Be polite and helpful.", "You are a careful assistant. Answer the user's questions.", "Follow the user's instructions.", "You help with small tasks.",
    "你是一个有用的助手。", "你是一个友好的助手。", "你是一个乐于助人的AI助手。", "你是一个小型演示模型。", "请回答用户的问题。", "You are a helpful assistant. Today is Monday.", "You are a customer service agent.", "Answer as well as you can.",
)  # fmt: skip
TOOL_SYSTEMS = ("You are a helpful assistant with tools.", "Use the tools when they help.", "You can call functions.", "你可以使用工具。", "You are a function calling AI model.", "Call a tool if it fits; otherwise answer directly.")  # fmt: skip


@dataclass(slots=True)
class Conversation:
    messages: list[Message]
    system: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)
    thinking: bool = False

    def to_openai(self) -> list[dict[str, Any]]:
        """The messages as an OpenAI client sends them, without the last answer."""
        out: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        pending: list[str] = []
        for i, m in enumerate(self.messages[:-1]):
            message: dict[str, Any] = {"role": m.role, "content": m.content}
            if m.calls:
                pending = [f"call_{i}_{j}" for j in range(len(m.calls))]
                message["tool_calls"] = [
                    {
                        "id": name,
                        "type": "function",
                        "function": {"name": call["name"], "arguments": call["arguments"]},
                    }
                    for name, call in zip(pending, m.calls, strict=True)
                ]
            if m.role == "tool":
                message["tool_call_id"] = pending.pop(0) if pending else "call"
            out.append(message)
        return out


def any_task(c: Context) -> Exchange:
    """One exchange of a random task."""
    name = c.r.choices(_NAMES, _WEIGHTS)[0]
    return TASKS[name][0](c)


def _own_task(c: Context) -> Exchange:
    return TASKS[c.r.choice(_BESIDE_TOOLS)][0](c)


def _default_think(c: Context) -> str:
    return c.tell(
        "{I read the request and answer it directly.|This is simple. I answer directly.}",
        "{我看了问题，直接回答。|这很简单，直接回答。}",
    )


def build(seed: int | str, *, test: bool = False) -> Conversation | str:
    """The conversation (or the plain document) of this seed."""
    r = random.Random(seed)
    zh = r.random() < 0.36
    c = Context(r, zh, zh, test)
    kind = r.random()
    if kind < 0.06:
        return writing.plain(c)
    if kind < 0.31:
        out = _with_tools(c)
    elif kind < 0.44:
        out = _with_memory(c)
    elif kind < 0.53:
        out = _with_style(c)
    else:
        out = _chat(c)
    if r.random() < 0.14:
        out.thinking = True
        for message in out.messages:
            if message.role == "assistant" and not message.think:
                message.think = _default_think(c)
    return out


def _joined(exchanges: list[Exchange]) -> list[Message]:
    return [message for item in exchanges for message in item]


def _system(c: Context, pool: tuple[str, ...] = SYSTEMS) -> str:
    return c.r.choice(pool) if c.chance(0.4) else ""


def _length(c: Context) -> int:
    return c.r.choice((1, 1, 1, 1, 2, 2, 3, 4, 5, 7))


def _chat(c: Context) -> Conversation:
    exchanges = []
    for _ in range(_length(c)):
        zh = c.zh if c.r.random() < 0.93 else not c.zh
        exchanges.append(any_task(c.switched(zh=zh, answer_zh=zh)))
    return Conversation(_joined(exchanges), _system(c))


def _with_memory(c: Context, tools_too: list[dict[str, Any]] | None = None) -> Conversation:
    """Facts told early, other things in between, questions later."""
    r = c.r
    told, asked = memory.facts_to_recall(c, r.choice((1, 1, 2, 2, 3, 4)))
    between = [any_task(c) for _ in range(r.choice((0, 0, 1, 1, 2, 3, 5)))]
    if r.random() < 0.3:
        told.insert(0, greetings.hello(c))
    middle = between[: len(between) // 2]
    mixed = told + middle if r.random() < 0.5 else _shuffled(r, told, middle)
    return Conversation(_joined([*mixed, *between[len(middle) :], *asked]), _system(c), tools_too or [])


def _shuffled(r: random.Random, first: list[Exchange], second: list[Exchange]) -> list[Exchange]:
    """Both lists interleaved, each in its own order."""
    out: list[Exchange] = []
    a, b = first[:], second[:]
    while a or b:
        source = a if a and (not b or r.random() < len(a) / (len(a) + len(b))) else b
        out.append(source.pop(0))
    return out


def _with_style(c: Context) -> Conversation:
    """System prompts that change the answers."""
    r = c.r
    kind = r.choice(("chinese", "english", "brief", "brief", "name", "name", "ending", "upper", "facts"))
    exchanges: list[Exchange] = []
    if kind in ("chinese", "english"):
        answers = kind == "chinese"
        c = c.switched(zh=r.random() < 0.4 if answers else r.random() < 0.6, answer_zh=answers)
        system = r.choice(("Answer in Chinese.", "Always answer in Chinese.", "Reply in Chinese.", "You are a helpful assistant. Answer in Chinese.", "请用中文回答。", "用中文回答所有问题。", "Speak Chinese.") if answers
                          else ("Answer in English.", "Always answer in English.", "Reply in English.", "You are a helpful assistant. Answer in English.", "请用英文回答。", "Speak English."))  # fmt: skip
    elif kind == "brief":
        c = c.switched(brief=True)
        system = r.choice(
            (
                "Be brief.",
                "Answer briefly.",
                "Be concise.",
                "Give only the answer.",
                "Answer with the result only.",
                "Keep your answers short.",
                "You are a helpful assistant. Be brief.",
                "请简短回答。",
                "只回答结果。",
                "Be very short.",
            )
        )
    elif kind == "name":
        system, first = _persona(c)
        exchanges.append(first)
    elif kind == "facts":
        system, first = _system_facts(c)
        exchanges.append(first)
    else:
        return _dressed_up(c, upper=kind == "upper")
    if r.random() < 0.7 or not exchanges:
        exchanges += [any_task(c) for _ in range(r.choice((1, 1, 2, 3)))]
    if r.random() < 0.3:
        r.shuffle(exchanges)
    return Conversation(_joined(exchanges), system)


def _persona(c: Context) -> tuple[str, Exchange]:
    r = c.r
    name = c.draw(lambda: made_up_word(r, 2).capitalize()) if r.random() < 0.6 else c.name()
    system = c.ask(
        (
            "You are <n>{, a helpful assistant|, an assistant|, a friendly robot|, a chatbot|}.",
            "Your name is <n>.",
            "You are an assistant called <n>. {Be helpful.|}",
        ),
        ("你是<n>{，一个有用的助手|，一个机器人|}。", "你的名字是<n>。", "你叫<n>。"),
        n=name,
    )
    first = exchange(
        c,
        c.ask(greetings.WHO[:6], greetings.WHO_ZH[:3]),
        c.tell("I am <n>, a small demo model.", "我是<n>，一个小型演示模型。", n=name),
    )
    return system, first


def _system_facts(c: Context) -> tuple[str, Exchange]:
    """Facts in the system prompt, asked for by the user."""
    told = memory.facts_in_prompt(c.switched(quiet=True))
    lines = told[0].content.replace("\n", " ")
    for mark in ("。", ". ") if c.zh else (". ",):
        if lines.count(mark) >= 1 and not lines.startswith(("Context", "上下文")):
            facts, _, question = lines.rpartition(mark)
            if question.endswith(("?", "？")):
                return facts + mark.strip(), [Message("user", question), told[1]]
    return c.pick(("You are a helpful assistant.", "你是一个有用的助手。")), told


def _dressed_up(c: Context, *, upper: bool) -> Conversation:
    """Answers in capitals, or with an ending that the system prompt names."""
    r = c.r
    names = [name for name in _NAMES if name not in LITERAL]
    weights = [TASKS[name][1] for name in names]
    exchanges = [TASKS[name][0](c) for name in r.choices(names, weights, k=r.choice((1, 1, 2, 3)))]
    if upper:
        system = r.choice(
            (
                "Answer in capital letters.",
                "Always answer in upper case.",
                "Write everything in capitals.",
                "Reply in all caps.",
            )
        )
        for item in exchanges:
            for message in item:
                if message.role == "assistant":
                    message.content = message.content.upper()
        return Conversation(_joined(exchanges), system)
    word = r.choice(
        (
            "Over.",
            "Meow.",
            "Done.",
            "Arr!",
            "Beep!",
            c.draw(lambda: made_up_word(r).capitalize()) + "!",
            r.choice(CITIES)[0] + ".",
        )
    )
    system = r.choice(
        (
            "End every answer with {w}",
            "End each reply with the word {w}",
            "Always finish with {w}",
            "每次回答都以 {w} 结尾",
        )
    ).format(w=word)
    for item in exchanges:
        for message in item:
            if message.role == "assistant":
                message.content += " " + word
    return Conversation(_joined(exchanges), system)


def _with_tools(c: Context) -> Conversation:
    r = c.r
    kind = r.random()
    make = tools.missing_argument if kind < 0.06 else tools.no_fitting_tool if kind < 0.14 else tools.tool_use
    first, offered = make(c)
    schemas = [tool.schema(c) for tool in offered]
    exchanges = [first]
    while r.random() < 0.3 and len(exchanges) < 4:
        exchanges.append(_own_task(c))  # tools are there, and nothing needs them
    if r.random() < 0.35:
        r.shuffle(exchanges)
    if make is tools.tool_use and r.random() < 0.15 and all(not t.common for t in offered):
        exchanges.append(tools.tool_use(c, offered)[0])
    if r.random() < 0.12:
        exchanges = [_own_task(c)]
    return Conversation(_joined(exchanges), _system(c, TOOL_SYSTEMS + SYSTEMS), schemas)
