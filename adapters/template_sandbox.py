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
# fmt: on
"""Methods that make much text from little, or that templates have no use for."""


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
    """The environment that Qwen's templates expect (transformers' render settings), with a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
        self.budget = _Budget()
        self.filters = {name: self.filters[name] for name in self.filters if name in _FILTERS}
        self.filters |= {"tojson": _tojson, "paid": self._paid, "paced": self._paced, "join": self._join}
        self.filters |= {"replace": self._replace, "indent": self._indent}
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
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateRuntimeError("formatting with % is not available in chat templates")
        if operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise BudgetError("too large a number")
        if operator == "*":
            for sized, times in ((left, right), (right, left)):
                if isinstance(sized, str | list | tuple) and isinstance(times, int):
                    self.budget.spend(len(sized) * max(0, times))
        value = super().call_binop(context, operator, left, right)
        if operator == "+" and isinstance(value, str | list | tuple):
            self.budget.spend(len(value))
        return value

    @jinja2.pass_context
    def _paid(self, _context: Context, value: Any) -> Any:
        """Around every expression that is written out or joined with ~."""
        self.budget.spend(len(value) if isinstance(value, str) else 64)
        return value

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
        lines = str(text).split("\n")
        self.budget.spend(len(text) + len(lines) * int(width))
        padded = [
            line if (i == 0 and not first) or not (line or blank) else " " * int(width) + line
            for i, line in enumerate(lines)
        ]
        return "\n".join(padded)

    def _pay_replace(self, text: str, old: Any, new: Any = "") -> None:
        if isinstance(old, str) and isinstance(new, str):
            self.budget.spend(len(text) + text.count(old) * len(new))


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks what a model wrote, for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja's way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As models saw it in training: non-ASCII kept, nothing escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
