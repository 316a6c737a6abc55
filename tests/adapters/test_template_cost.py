"""What slow and hostile chat templates can do: little to the event loop, and to their own requests what is due."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from adapters.backend import ChatPrompt, GenerationParams, GenerationRequest, TextPrompt
from adapters.backend_options import BackendLimits, BackendOptions
from adapters.checks import ModelFacts
from adapters.compiled_template import CompiledTemplate
from adapters.patience import InlineTrust
from adapters.prompts import ModelText
from adapters.template_sandbox import BudgetError
from adapters.text_workers import INLINE_CHARS, TextWorkers
from engine.errors import RequestError
from engine.models.config import GenerationDefaults
from tests.support.fault_checkpoint import CHATML, write_fault_checkpoint

FACTS = ModelFacts(260, 100_000, (257,), GenerationDefaults())
DOUBLING = "{%% set ns = namespace(x=%s) %%}{%% for i in range(99) %%}{%% set ns.x = %s %%}{%% endfor %%}"
HOSTILE = {
    "squares": DOUBLING % ("3", "ns.x * ns.x"),
    "powers": DOUBLING % ("3", "ns.x ** 60"),
    "a tower": "{{ 9 ** (9 ** 9) }}",
    "negative powers": "{{ 9.0 ** -99999 }}",
    "rounding": "{{ 1.5|round(99999999, 'ceil') }}",
    "lists of lists": DOUBLING % ("['a']", "[ns.x, ns.x]") + "{{ ns.x }}",
    "lists of lists as text": DOUBLING % ("['a']", "[ns.x, ns.x]") + "{{ ns.x|string|length }}",
    "lists of lists as JSON": DOUBLING % ("['a']", "(ns.x, ns.x)") + "{{ ns.x|tojson }}",
    "lists of lists compared": DOUBLING % ("['a']", "[ns.x] * 2") + "{{ ns.x == ns.x[0] }}",
    "mappings of mappings": DOUBLING % ("{}", "{'a': ns.x, 'b': ns.x}") + "{{ ns.x }}",
    "dict() of dict()": DOUBLING % ("{}", "dict(a=ns.x, b=ns.x)") + "{{ ns.x }}",
    "sum of lists": "{{ ([range(9999)|list] * 9999)|sum(start=[])|length }}",
    "list times number": "{{ (range(99999)|list * 99999)|length }}",
    "indented JSON": "{{ [1]|tojson(indent=999999999) }}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubled text": DOUBLING % ("'a'", "ns.x ~ ns.x") + "{{ ns.x }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped(name: str) -> None:
    template = CompiledTemplate(HOSTILE[name], ())
    began_s = time.process_time()
    with pytest.raises((BudgetError, OverflowError, ValueError)):
        template.render({}, deadline_s=0.3, max_chars=16 << 20)
    assert time.process_time() - began_s < 3


def test_what_templates_need_still_works() -> None:
    def render(source: str, **variables: Any) -> str:
        return "".join(CompiledTemplate(source, ()).render(variables, deadline_s=5.0, max_chars=1000))

    assert render("{{ [1, 2.5]|sum }}{{ xs|sum('a') }}{{ xs|sum(attribute='a', start=2) }}", xs=[{"a": 3}]) == "3.535"
    assert render("{{ 2.567|round(1) }}{{ 2.5|round|int }}{{ 2.1|round(0, 'ceil') }}") == "2.623.0"
    assert render("{{ 'ab'|list }}{{ {'a': 1}|list }}{{ 5|string }}") == "['a', 'b']['a']5"
    assert (
        render("{% for a, b in [(1, 2)] %}{{ a + b }}{% endfor %}{{ ('x',) + (1,) }}{{ 2 ** 10 }}") == "3('x', 1)1024"
    )
    assert (
        render("{{ dict(a=1)|tojson(indent=2) }}{{ 6 * 7 }}{{ 'ab' * 2 }}{{ [0] * 2 }}")
        == '{\n  "a": 1\n}42abab[0, 0]'
    )


def ask(prompt: ChatPrompt | TextPrompt, **params: Any) -> GenerationRequest:
    return GenerationRequest("r", prompt, GenerationParams(**params))


def chat(*contents: object, **kwargs: Any) -> ChatPrompt:
    return ChatPrompt(tuple({"role": "user", "content": content} for content in contents), **kwargs)


class Watched(ModelText):
    """Remembers in which threads it was at work, for each request in turn."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        super().__init__(folder, BackendOptions(limits=BackendLimits(template_timeout_s=timeout_s)))
        self.places: list[str] = []

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        self.places.append("loop" if threading.current_thread() is threading.main_thread() else "thread")
        return super().encode(*args, **kwargs)


def workers_over(folder: Path, template: str, timeout_s: float = 2.0) -> tuple[TextWorkers, Watched]:
    write_fault_checkpoint(folder)
    (folder / "chat_template.jinja").write_text(template)
    text = Watched(folder, timeout_s)
    return TextWorkers(text), text


async def longest_pause_s(work: asyncio.Task[Any]) -> float:
    """Of the event loop while the work is done, in processor time of its thread."""
    longest_s = 0.0
    while not work.done():
        began_s = time.thread_time()
        await asyncio.sleep(0)
        longest_s = max(longest_s, time.thread_time() - began_s)
        await asyncio.sleep(0.001)
    return longest_s


async def test_a_slow_template_leaves_the_loop_at_once_and_is_not_tried_there_again(tmp_path: Path) -> None:
    slow = "{% for i in range(300) %}{% for j in range(900) %}{% set a = j %}{% endfor %}{% endfor %}" + CHATML
    workers, text = workers_over(tmp_path / "model", slow)
    work = asyncio.create_task(workers.encode(ask(chat("hello")), FACTS))
    pause_s = await longest_pause_s(work)
    assert (await work).text.endswith("hello<|im_end|>\n<|im_start|>assistant\n")
    assert text.places == ["loop", "thread"]
    assert pause_s < 0.1
    for _ in range(16):
        await workers.encode(ask(chat("hello")), FACTS)
    assert text.places[2:] == ["thread"] * 16
    await workers.encode(ask(chat("hello")), FACTS)
    assert text.places[18:] == ["loop", "thread"]
    workers.close()


async def test_an_endless_template_stops_nobody_else(tmp_path: Path) -> None:
    workers, _ = workers_over(tmp_path / "model", HOSTILE["nested loops"], timeout_s=0.5)
    work = asyncio.create_task(workers.encode(ask(chat("hello")), FACTS))
    pause_s = await longest_pause_s(work)
    with pytest.raises(RequestError, match="took too long") as caught:
        await work
    assert caught.value.param == "messages"
    assert pause_s < 0.3
    workers.close()


@pytest.mark.parametrize(
    "request_",
    [
        ask(chat("a" * (INLINE_CHARS + 1))),
        ask(chat(*[""] * 2000)),
        ask(chat("a", tools=({"type": "function", "function": {"name": "f", "parameters": {"enum": [1] * 5000}}},))),
        ask(chat("a", chat_template_kwargs={"x": [0] * 5000})),
        ask(TextPrompt("a" * (INLINE_CHARS + 1))),
        ask(TextPrompt("a"), bad_words=("b" * 2000,) * 3),
    ],
    ids=["text", "messages", "numbers in tools", "numbers in kwargs", "plain text", "bad words"],
)
async def test_whatever_makes_a_prompt_large_sends_it_to_a_thread(
    tmp_path: Path, request_: GenerationRequest
) -> None:
    workers, text = workers_over(tmp_path / "model", CHATML)
    await workers.encode(ask(chat("short")), FACTS)
    with contextlib.suppress(RequestError):  # refused, but not by the loop
        await workers.encode(request_, FACTS)
    assert text.places == ["loop", "thread"]
    workers.close()


async def test_a_refusal_of_the_template_is_no_slowness(tmp_path: Path) -> None:
    workers, text = workers_over(tmp_path / "model", CHATML + "{{ raise_exception('never') }}")
    for _ in range(2):
        with pytest.raises(RequestError, match="never"):
            await workers.encode(ask(chat("a")), FACTS)
    assert text.places == ["loop", "loop"]
    workers.close()


def test_trust_comes_back_later_each_time() -> None:
    trust = InlineTrust(first_pause=2, longest_pause=4)
    for pause in (2, 4, 4):
        assert trust.allows_next()
        trust.lose()
        assert [trust.allows_next() for _ in range(pause + 1)] == [False] * pause + [True]
