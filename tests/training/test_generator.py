"""The data generator: the same seed gives the same text, and nothing that is evaluated is ever trained on."""

from __future__ import annotations

import json
import random

import pytest

from training.conversation import TASKS, Conversation, build
from training.core import Context, expand, held_out
from training.instances import EVALUATED, FREE, calls_of, instances
from training.rendering import answer_text, prompt_of, segments


def test_a_seed_gives_the_same_document_every_time() -> None:
    def texts() -> list[str]:
        documents = [build(f"same-{i}") for i in range(200)]
        return [d if isinstance(d, str) else "".join(t for t, _ in segments(d)) for d in documents]

    assert texts() == texts()
    assert len(set(texts())) > 195


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("zh", [False, True])
@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_writes_questions_and_answers(task: str, zh: bool, test: bool) -> None:
    for seed in range(40):
        messages = TASKS[task][0](Context(random.Random(f"{task}-{seed}"), zh, zh, test))
        assert [m.role for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        for message in messages:
            assert message.content
            assert "<verb>" not in message.content
            assert "{" not in message.content or task in {"to_json", "code"}


def test_drawn_values_lie_on_their_side_of_the_split() -> None:
    for test in (False, True):
        c = Context(random.Random(3), test=test)
        for draw in (c.name, c.city, c.code):
            assert {held_out(repr(draw())) for _ in range(200)} == {test}


def test_evaluated_sums_are_never_trained() -> None:
    evaluated = {i.expected.content for i in instances(150, ["addition"]) if "=" in i.expected.content}
    trained = set()
    for seed in range(4000):
        for message in TASKS["addition"][0](Context(random.Random(seed))):
            trained.add(message.content)
    assert len(evaluated) > 100
    assert not evaluated & trained


def test_evaluated_names_of_people_are_never_trained() -> None:
    trained = {Context(random.Random(i)).name() for i in range(3000)}
    evaluated = {Context(random.Random(i), test=True).name() for i in range(1000)}
    assert len(evaluated) > 100
    assert not evaluated & trained


@pytest.mark.parametrize("task", sorted(set(EVALUATED) - FREE))
def test_the_expected_reply_counts_as_right_and_another_does_not(task: str) -> None:
    for instance in instances(10, [task]):
        assert instance.right(answer_text(instance.expected))
        assert not instance.right("something else")


def test_evaluation_instances_are_always_the_same() -> None:
    first = [prompt_of(i.conversation) for i in instances(3)]
    assert first == [prompt_of(i.conversation) for i in instances(3)]


def test_json_answers_are_json_and_tool_calls_name_an_offered_tool() -> None:
    for instance in instances(60, ["to_json"]):
        assert isinstance(json.loads(instance.expected.content), dict)
    for instance in instances(60, ["tool_choice_and_arguments"]):
        offered = {t["function"]["name"]: t["function"] for t in instance.conversation.tools}
        assert len(offered) == len(instance.conversation.tools) >= 2
        for call in instance.expected.calls:
            schema = offered[call["name"]]["parameters"]
            assert set(schema.get("required", [])) <= set(call["arguments"]) <= set(schema["properties"])


def test_calls_are_read_whole_or_not_at_all() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert calls_of(call + "\n" + call) == [{"name": "f", "arguments": {"a": 1}}] * 2
    assert calls_of("<tool_call>\n{broken\n</tool_call>") is None
    assert calls_of("no call") == []


def test_templates_choose_and_fill() -> None:
    r = random.Random(0)
    seen = {expand(r, "{a|b{1|2}|} <x>!", {"x": "{v|w}"}) for _ in range(200)}
    assert seen == {"a {v|w}!", "b1 {v|w}!", "b2 {v|w}!", " {v|w}!"}


def test_conversations_come_in_all_kinds() -> None:
    documents = [build(f"kinds-{i}") for i in range(600)]
    dialogues = [d for d in documents if isinstance(d, Conversation)]
    assert 0.02 < 1 - len(dialogues) / len(documents) < 0.12
    assert any(d.tools for d in dialogues)
    assert any(d.thinking for d in dialogues)
    assert any(m.role == "tool" for d in dialogues for m in d.messages)
    assert any(d.system for d in dialogues)
    assert any(len(d.messages) > 8 for d in dialogues)
