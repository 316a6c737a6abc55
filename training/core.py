"""What every task of the generator shares: messages, the split, and a small template language."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Any, TypeVar

from training import words

T = TypeVar("T")
TEST_SHARE = 10
"""One instance in ten belongs to the evaluation and is never trained on."""


@dataclass(slots=True)
class Message:
    role: str
    content: str = ""
    think: str = ""
    """Reasoning of an assistant's message; shown only in conversations that think."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Tool calls as `{"name": str, "arguments": dict}`."""


Exchange = list[Message]
"""A user's message up to the assistant's last answer to it."""


@lru_cache(maxsize=1 << 18)
def held_out(key: str) -> bool:
    """Whether the instance with this content belongs to the evaluation: a hash decides, so no list is kept."""
    return int.from_bytes(hashlib.blake2s(key.encode(), digest_size=4).digest()) % TEST_SHARE == 0


Node = str | tuple["Node", ...] | list["Node"]
_TOKEN = re.compile(r"[{|}]|<[a-z_0-9]+>|[^{|}<]+|<")


@lru_cache(maxsize=1 << 14)
def _parse(template: str) -> tuple[Node, ...]:
    """Sequences become tuples, alternatives lists, slots the string `<name>`."""
    stack: list[list[list[Node]]] = [[[]]]
    for token in _TOKEN.findall(template):
        if token == "{":
            stack.append([[]])
        elif token == "|" and len(stack) > 1:
            stack[-1].append([])
        elif token == "}" and len(stack) > 1:
            options = stack.pop()
            stack[-1][-1].append([tuple(option) for option in options])
        else:
            stack[-1][-1].append(token)
    return tuple(stack[0][0])


def expand(r: Random, template: str, slots: dict[str, Any]) -> str:
    """Write a template out: `{a|b}` picks one, `<name>` inserts a slot.

    Slots are inserted as they are, so they may hold braces.
    """
    out: list[str] = []

    def walk(nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            if isinstance(node, list):
                walk(r.choice(node))  # type: ignore[arg-type]
            elif isinstance(node, str) and node[0] == "<" and node[1:-1] in slots:
                out.append(str(slots[node[1:-1]]))
            else:
                out.append(node)  # type: ignore[arg-type]

    walk(_parse(template))
    return "".join(out)


@dataclass(slots=True)
class Context:
    """One conversation's dice and circumstances, handed to every task."""

    r: Random
    zh: bool = False
    """The user writes Chinese."""
    answer_zh: bool = False
    """The assistant answers in Chinese."""
    test: bool = False
    """Draw held-out instances, names and words instead of the ones for training."""
    brief: bool = False
    """The system prompt asked for short answers."""
    quiet: bool = False
    """Leave the user's wording alone (no dropped punctuation or lower case)."""

    def chance(self, probability: float) -> bool:
        return self.r.random() < probability

    def draw(self, make: Callable[[], T]) -> T:
        """Repeat `make` until the instance falls on this context's side of the split."""
        for _ in range(10_000):
            value = make()
            if held_out(repr(value)) == self.test:
                return value
        raise RuntimeError(
            f"no instance of this kind is on the {'held-out' if self.test else 'training'} side: {value!r}"
        )

    def ask(self, en: Sequence[str], zh: Sequence[str], **slots: Any) -> str:
        """The user's words, in the user's language."""
        return expand(self.r, self.r.choice(zh if self.zh else en), slots)

    def tell(self, en: str, zh: str, **slots: Any) -> str:
        """The assistant's words, in the language of the answers."""
        return expand(self.r, zh if self.answer_zh else en, slots)

    def pick(self, pair: tuple[str, str]) -> str:
        """The user's side of an English-Chinese pair."""
        return pair[1] if self.zh else pair[0]

    def word(self) -> str:
        """An English word: mostly a known one (in both splits), often made up."""
        if self.chance(0.55):
            return self.r.choice(words.COMMON_ENGLISH)
        return self.draw(lambda: words.made_up_word(self.r))

    def name(self) -> str:
        """A person's name, made up in a third of the cases."""
        r, kind = self.r, self.r.random()
        if self.zh and kind < 0.75:
            return self.draw(lambda: self._chinese_name(r.random()))
        if kind < 0.6:
            return self.draw(lambda: r.choice(words.NAMES))
        if kind < 0.7:
            return self.draw(lambda: f"{r.choice(words.NAMES)} {r.choice(words.SURNAMES)}")
        return self.draw(lambda: words.made_up_word(r, r.choice((2, 2, 3))).capitalize())

    def _chinese_name(self, kind: float) -> str:
        r = self.r
        if kind < 0.2:
            return r.choice(words.NICKNAMES_ZH)
        if kind < 0.4:
            return words.made_up_hanzi(r)
        return r.choice(words.SURNAMES_ZH) + "".join(r.choice(words.GIVEN_ZH) for _ in range(r.choice((1, 2, 2))))

    def city(self) -> str:
        r, kind = self.r, self.r.random()
        if kind < 0.8:
            return self.draw(lambda: self.pick(r.choice(words.CITIES)))
        if self.zh:
            return self.draw(lambda: words.made_up_hanzi(r, r.choice((2, 3))))
        return self.draw(lambda: words.made_up_word(r, r.choice((2, 3))).capitalize())

    def code(self) -> str:
        """Something to copy letter by letter: `K7-204`, `qf83`, `48213`."""
        r = self.r
        shape = r.choice(("A9-999", "aa99", "99999", "AAA-99", "9a9a9", "AA999A", "9999", "A-99", "aaa9"))
        pools = {"A": "ABCDEFGHJKLMNPQRSTUVWXYZ", "a": "abcdefghjkmnpqrstuvwxyz", "9": "0123456789"}
        return self.draw(lambda: "".join(r.choice(pools.get(s, s)) for s in shape))

    def switched(self, **changes: Any) -> Context:
        return replace(self, **changes)


def casual(c: Context, text: str) -> str:
    """The small liberties people take when typing."""
    r = c.r
    if c.quiet or r.random() < 0.5:
        return text
    roll = r.random()
    if roll < 0.3:
        return text[0].lower() + text[1:] if not text.startswith(("I ", "I'")) else text
    if roll < 0.6:
        return text.rstrip(".?!。？！") or text
    if roll < 0.75:
        stripped = text.rstrip(".?!。？！") or text
        return stripped[0].lower() + stripped[1:]
    if c.zh:
        return r.choice(("请问，", "你好，", "嗨，", "那么，", "好的，", "麻烦你，", "我想问一下，")) + text
    lowered = text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]
    opening = r.choice(("Hi, ", "Hello, ", "Hey, ", "Ok, ", "Now ", "So, ", "Hello! ", "Hi! ", "Great. ", "Thanks. "))
    return opening + (text if opening.endswith(("! ", ". ")) else lowered)


def exchange(c: Context, user: str, answer: str, think: str = "", brief: str | None = None) -> Exchange:
    """One question and its answer; `brief` is the answer when short ones were asked for."""
    text = casual(c, user)
    if brief is not None and not c.brief and c.chance(0.06):
        endings = ("只回答结果。", "只要答案。", "请简短回答。") if c.zh else (
            "Answer with the result only.", "Just the answer, please.", "Reply with only the answer.")  # fmt: skip
        text, answer = f"{text} {c.r.choice(endings)}", brief
    elif brief is not None and c.brief:
        answer = brief
    return [Message("user", text), Message("assistant", answer, think)]
