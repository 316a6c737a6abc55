"""A chat template ready to render, with a memory of which control tokens are its own.

Control tokens that the template's source spells are replaced by marks that no client can know. What is a mark after
rendering was the template's; the same characters without a mark came from a client and stay plain text.
"""

# ruff: noqa: N802 - jinja finds a visitor by its node's class name

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from adapters.template_sandbox import BudgetError, TemplateSandbox


class CompiledTemplate:
    """One template, its control tokens marked. Rendering is thread-safe."""

    def __init__(self, source: str, control_tokens: Iterable[str]) -> None:
        """Raises jinja2.TemplateError when the source is no template."""
        nonce = secrets.token_hex(16)
        self._tokens = sorted(control_tokens, key=len, reverse=True)
        self._marks = {token: f"\ue000{nonce}.{i}\ue001" for i, token in enumerate(self._tokens)}
        self._mark_pattern = re.compile(f"\ue000{nonce}\\.(\\d+)\ue001")
        self._token_pattern = re.compile("|".join(map(re.escape, self._tokens))) if self._tokens else None
        self._environment = TemplateSandbox()
        tree = self._environment.parse(source)
        self.reads = frozenset(jinja2.meta.find_undeclared_variables(tree))
        """Names that the template may read from its context."""
        self.options = self.reads - {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
        """Those that it never sets itself."""
        tree = _Instrument(self.mark).visit(tree)
        code = self._environment.compile(tree)
        self._template = jinja2.Template.from_code(self._environment, code, self._environment.make_globals(None))

    def mark(self, text: str) -> str:
        """The text with its control tokens marked as the template's own."""
        return self._token_pattern.sub(lambda match: self._marks[match[0]], text) if self._token_pattern else text

    def render(self, variables: dict[str, Any], *, deadline_s: float, max_chars: int) -> list[str]:
        """Plain text and control tokens in turns: items 0, 2, 4... are plain text, 1, 3, 5... control tokens.

        Raises jinja2.TemplateError and whatever else a wrong template raises.
        """
        budget = self._environment.budget
        budget.deadline_s = time.monotonic() + deadline_s
        budget.text_left = 8 * max_chars
        pieces: list[str] = []
        for piece in self._template.generate(variables):
            pieces.append(piece)
            max_chars -= len(piece)
            if max_chars < 0:
                raise BudgetError("too much text")
        parts = self._mark_pattern.split("".join(pieces))
        return [self._tokens[int(part)] if i % 2 else part for i, part in enumerate(parts)]


class _Instrument(NodeTransformer):
    """Marks the source's control tokens and puts the budget's filters where text is made and loops run."""

    def __init__(self, mark: Callable[[str], str]) -> None:
        self._mark = mark

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        node.data = self._mark(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, str):
            node.value = self._mark(node.value)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        return node  # what clients' text is compared with stays as it is spelled

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        if isinstance(node.node, nodes.Getattr):  # content.split('<|im_end|>')
            node.node = self.visit(node.node)
            return node
        return self.generic_visit(node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        if node.name == "replace" and node.node is not None:
            node.node = self.visit(node.node)
            return node
        return self.generic_visit(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "paced")
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [n if isinstance(n, nodes.TemplateData) else _filtered(n, "paid") for n in node.nodes]
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "paid")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if node.ctx == "store" else _filtered(node, "paid")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "paid")

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "paid")


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
