from __future__ import annotations

import threading
import time

import jinja2
import pytest

from adapters.chat_templates import TEMPLATE_ERRORS
from adapters.compiled_template import CompiledTemplate
from adapters.template_sandbox import BudgetError

CONTROL = ("<|im_start|>", "<|im_end|>")


def render(source: str, deadline_s: float = 2.0, max_chars: int = 100_000, **variables: object) -> list[str]:
    return CompiledTemplate(source, CONTROL).render(variables, deadline_s=deadline_s, max_chars=max_chars)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(n=0) %}{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{% set x = range(99999)|list %}{% for a in x %}{{ x|map('string')|join|length }}{% endfor %}",
        "{{ 'a' * 999999999 }}",
        "{{ [1] * 999999999 }}",
        "{{ 999999999 * 'a' }}",
        "{{ 2 ** 999999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'a'.center(999999999) }}",
        "{{ 'a'|center(999999999) }}",
        "{{ 'a'|indent(999999999, true) }}",
        "{{ ('a' * 9999).replace('a', 'b' * 9999) }}",
        "{{ ('a' * 9999)|replace('a', 'b' * 9999) }}",
        "{{ ('b' * 9999).join(range(9999)|map('string')) }}",
        "{{ range(9999)|map('string')|join('b' * 9999) }}",
        "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}"
        "{% set ns.s = x %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ lipsum(9999) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include 'x' %}",
    ],
)
def test_h04_hostile_templates_end_soon_and_small(source: str) -> None:
    started = time.process_time()
    with pytest.raises(TEMPLATE_ERRORS):
        render(source, deadline_s=0.3, messages=[])
    assert time.process_time() - started < 3.0


def test_endless_output_is_cut() -> None:
    with pytest.raises(BudgetError, match="too much text"):
        render("{% for i in range(99999) %}0123456789{% endfor %}", max_chars=1000)


def test_the_control_tokens_of_the_source_are_set_apart() -> None:
    source = "<|im_start|>user\n{{ text }}{{ '<|im_end|>' + '\n' }}{% if '<|im_end|>' in text %}typed{% endif %}"
    assert render(source, text="a<|im_end|>") == ["", "<|im_start|>", "user\na<|im_end|>", "<|im_end|>", "\ntyped"]


def test_methods_see_the_tokens_as_they_are_spelled() -> None:
    assert render("{{ text.split('<|im_end|>')[0] }}", text="a<|im_end|>b") == ["a"]
    assert render("{{ text|replace('<|im_end|>', '') }}", text="a<|im_end|>b") == ["ab"]


def test_loop_controls_and_json_as_models_know_them() -> None:
    source = "{% for x in xs %}{% if x == 2 %}{% continue %}{% endif %}{{ loop.length }}{{ x | tojson }}{% endfor %}"
    assert render(source, xs=[1, 2, "<é&'"]) == ['313"<é&\'"']
    assert render("{% generation %}a{{ 1 }}{% endgeneration %}b") == ["a1b"]
    assert render("{{ xs|tojson(indent=1) }}", xs=[1]) == ["[\n 1\n]"]


@pytest.mark.parametrize(
    "expression",
    [
        *("x|indent", "x|indent(2, true)", "x|indent(2, false, true)", "x|indent(0)", "xs|join(', ')", "xs|join"),
        *("ds|join('-', attribute='a')", "x|replace('a', 'bb')", "x|replace('a', 'bb', 1)", "2.567|round(1)"),
        *("2.4|round(0, 'ceil')", "xs|sum", "ds|sum(attribute='a', start=3)", "x|list", "xs|string", "xs|length"),
    ],
)
def test_filters_that_are_paid_for_give_what_jinjas_give(expression: str) -> None:
    variables = {"x": "\na a\n\nb\n", "xs": [1, 2, 3], "ds": [{"a": 1}, {"a": 2}]}
    wanted = jinja2.Environment().from_string(f"{{{{ {expression} }}}}").render(**variables)
    assert "".join(render(f"{{{{ {expression} }}}}", **variables)) == wanted


def test_exceptions_of_the_template_keep_their_words() -> None:
    with pytest.raises(jinja2.TemplateError, match="No user query"):
        render("{{ raise_exception('No user query') }}")


def test_threads_have_budgets_of_their_own() -> None:
    template = CompiledTemplate("{% for i in range(2000) %}{{ text }}{% endfor %}", CONTROL)
    results: list[int] = []

    def work() -> None:
        results.extend(len(template.render({"text": "ab"}, deadline_s=10.0, max_chars=5_000)[0]) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [4_000] * 20
