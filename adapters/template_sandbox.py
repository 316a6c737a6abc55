"""Chat templates as code that nobody trusts: a jinja sandbox with a bill for time and text.

A template comes with the model, yet it is a program. The sandbox keeps it from Python's inside; the budget here keeps
it from running for ever or filling the memory: each loop turn and call looks at the clock, each piece of text is paid
for before it is joined to others.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_indent, do_round
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# fmt: off
_FILTERS = frozenset({
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape",
    "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "truncate",
    "unique", "upper", "wordcount",
})
_UNSAFE_STR = frozenset({
    "center", "encode", "expandtabs", "format", "format_map", "ljust", "maketrans", "rjust", "translate", "zfill",
})
"""Methods that make much text from little, or that templates have no use for."""
# fmt: on

MAX_INT_BITS = 4096
"""Of products and powers: arithmetic on longer ones takes long without a place to look at the clock."""
MAX_PRECISION = 64
MAX_INDENT = 64
NODE_COST = 8
"""Characters that one item of a list or a mapping counts as."""


class BudgetError(jinja2.TemplateError):
    """The template ran too long or wrote too much."""


class _Budget(threading.local):
    deadline_s = 0.0
    text_left = 0

    def tick(self) -> None:
        if time.monotonic() > self.deadline_s:
            raise BudgetError("rendering took too long")

    def spend(self, length: int) -> None:
        self.text_left -= length
        if self.text_left < 0:
            raise BudgetError("too much text")
        self.tick()


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment that Qwen's templates expect (transformers' render settings), with a budget.

    Filters take the context, needed or not: jinja computes none of those while it compiles, before any budget.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
        self.budget = _Budget()
        self.filters = {name: self.filters[name] for name in self.filters if name in _FILTERS}
        self.filters |= {"paid": self._paid, "paced": self._paced, "join": self._join}
        self.filters |= {"replace": self._replace, "indent": self._indent, "tojson": self._json, "sum": self._sum}
        self.filters |= {"string": self._string, "list": self._list, "round": self._round}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "joiner", "cycler")}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _UNSAFE_STR:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ in _UNSAFE_STR:
            raise SecurityError("str.format is not available in chat templates")
        return super().wrap_str_format(value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.budget.tick()
        text = getattr(obj, "__self__", None)
        if isinstance(text, str) and args:
            if obj.__name__ == "replace":
                self._pay_replace(text, *args[:2])
            elif obj.__name__ == "join":
                return self._join(context, args[0], text)
        value = super().call(context, obj, *args, **kwargs)
        if obj is dict:
            self._pay(value)
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateRuntimeError("formatting with % is not available in chat templates")
        if operator == "**" and isinstance(right, int):
            bits = left.bit_length() if isinstance(left, int) else 64
            if abs(right) > MAX_INT_BITS or bits * abs(right) > MAX_INT_BITS:
                raise BudgetError("too large a number")
        if operator == "*":
            self._check_product(left, right)
        value = super().call_binop(context, operator, left, right)
        if operator == "+" and isinstance(value, str | list | tuple):
            self.budget.spend(len(value))
        return value

    def _check_product(self, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_INT_BITS:
                raise BudgetError("too large a number")
            return
        for sized, times in ((left, right), (right, left)):
            if isinstance(sized, str | list | tuple) and isinstance(times, int):
                self.budget.spend(max(len(sized), self._cost(sized)) * max(0, times))

    def _cost(self, value: Any) -> int:
        """Characters of a value written out, by and large: containers with all that is in them, however often.

        Raises BudgetError as soon as it is more than is left: a few lists inside each other can be a billion items.
        """
        if isinstance(value, str):
            return len(value)
        cost, stack = 0, [value]
        while stack:
            item = stack.pop()
            cost += len(item) + NODE_COST if isinstance(item, str) else NODE_COST
            if isinstance(item, dict):
                stack.extend(item)
                stack.extend(item.values())
            elif isinstance(item, list | tuple):
                stack.extend(item)
            if cost > self.budget.text_left:
                raise BudgetError("too much text")
        return cost

    def _pay(self, value: Any) -> None:
        self.budget.spend(self._cost(value))

    @jinja2.pass_context
    def _paid(self, _context: Context, value: Any) -> Any:
        """Around every expression that is written out or joined with ~, and around lists and mappings made anew."""
        self.budget.spend(len(value) if isinstance(value, str) else self._cost(value))
        return value

    @jinja2.pass_context
    def _string(self, _context: Context, value: Any) -> str:
        self._pay(value)
        return str(value)

    @jinja2.pass_context
    def _list(self, _context: Context, value: Iterable[Any]) -> list[Any]:
        items: list[Any] = []
        for item in value:
            self.budget.spend(NODE_COST)
            items.append(item)
        return items

    @jinja2.pass_context
    def _sum(self, context: Context, items: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
        total = start
        for item in items:
            total = self.call_binop(context, "+", total, item if attribute is None else self.getitem(item, attribute))
        return total

    @jinja2.pass_context
    def _round(self, _context: Context, value: Any, precision: int = 0, method: Any = "common") -> Any:
        if abs(precision) > MAX_PRECISION:
            raise BudgetError("too large a number")
        return do_round(value, precision, method)

    @jinja2.pass_context
    def _json(
        self,
        _context: Context,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """As models saw it in training: non-ASCII kept, nothing escaped for HTML."""
        if indent is not None and indent > MAX_INDENT:
            raise BudgetError("too much text")
        self._pay(value)
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        self.budget.spend(len(text))
        return text

    @jinja2.pass_context
    def _paced(self, _context: Context, items: Iterable[Any]) -> Iterator[Any]:
        """Around what every loop runs over."""
        for item in items:
            self.budget.tick()
            yield item

    @jinja2.pass_context
    def _join(
        self, _context: Context, items: Iterable[Any], separator: str = "", attribute: str | None = None
    ) -> str:
        if attribute is not None:
            items = (item[attribute] for item in items)
        texts = []
        for item in items:
            texts.append(str(item))
            self.budget.spend(len(texts[-1]) + len(separator))
        return str(separator).join(texts)

    @jinja2.pass_context
    def _replace(self, _context: Context, text: str, old: str, new: str, count: int = -1) -> str:
        self._pay_replace(str(text), old, new)
        return str(text).replace(old, new, count)

    @jinja2.pass_context
    def _indent(self, _context: Context, text: str, width: int = 4, first: bool = False, blank: bool = False) -> str:
        self.budget.spend(len(text) + len(str(text).splitlines()) * int(width))
        return do_indent(str(text), int(width), first, blank)

    def _pay_replace(self, text: str, old: Any, new: Any = "") -> None:
        if isinstance(old, str) and isinstance(new, str):
            self.budget.spend(len(text) + text.count(old) * len(new))


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks what a model wrote, for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja's way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
