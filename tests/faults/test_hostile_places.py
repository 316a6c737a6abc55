"""Faults against the bundled model that are found behind the wire: in templates, grammars and the engine."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from tests.adapters.test_grammar_trials import DEEP_CHAIN, ENDLESS
from tests.oai_server.test_hostile_fields import PLACES
from tests.support.fault_demo import Demo, check_answered, check_refused


@pytest.mark.parametrize("name", PLACES)
def test_places_in_messages_are_those_of_the_request(demo: Demo, name: str) -> None:
    (path, body), param = PLACES[name]
    said = check_refused(demo.client.post(path, json=body), param)
    assert param.partition("]")[0] in said


def test_documents_are_no_fault_where_the_template_has_no_place_for_them(demo: Demo) -> None:
    check_answered(demo.chat(documents=[{"title": "t", "text": "x" * 20_000}]))
    check_refused(demo.chat(chat_template_kwargs={"documents": []}), "chat_template_kwargs")


@pytest.mark.parametrize("field", ["guided_json", "response_format", "tools"])
def test_grammars_that_would_end_the_server(demo: Demo, field: str) -> None:
    if field == "response_format":
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP_CHAIN}}
        check_refused(demo.complete(response_format=wanted), "response_format")
    elif field == "tools":
        short = {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(30)}, "$ref": "#/$defs/d0"}
        tool = {"type": "function", "function": {"name": "f", "parameters": short}}
        reply = demo.chat(tools=[tool], tool_choice="required", truncate_prompt_tokens=100)
        check_refused(reply, "tools")
    else:
        check_refused(demo.complete(guided_json=DEEP_CHAIN), "guided_json")


def test_a_grammar_that_never_ends_holds_up_nobody(demo: Demo) -> None:
    known = {"guided_regex": "[ab]{3}"}
    check_answered(demo.complete(**known))

    def others() -> float:
        asked_s = time.monotonic()
        check_answered(demo.complete(**known))
        check_answered(demo.complete("Once"))
        assert demo.client.get("/health").status_code == 200
        return time.monotonic() - asked_s

    alone_s = others()
    replies: list[Any] = []
    thread = threading.Thread(target=lambda: replies.append(demo.complete(guided_json=ENDLESS)))
    thread.start()
    time.sleep(0.2)
    assert others() < 3 + 10 * alone_s
    thread.join()
    check_refused(replies[0], "guided_json")


def test_many_choices_of_one_large_form_compile_it_once(demo: Demo) -> None:
    names = [f"property_{i}" for i in range(900)]
    value = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
    asked_s = time.monotonic()
    one = demo.complete(guided_json=value, max_tokens=1)
    alone_s = time.monotonic() - asked_s
    check_answered(one)
    asked_s = time.monotonic()
    check_answered(demo.complete(guided_json=value, n=32, max_tokens=1))
    assert time.monotonic() - asked_s < 3 + 10 * alone_s


def test_whitespace_is_as_it_was_asked_for(demo: Demo) -> None:
    value = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
        "required": ["a", "b"],
    }
    options = {"json": value, "disable_any_whitespace": True, "disable_additional_properties": True}
    text = demo.complete(structured_outputs=options, max_tokens=40).json()["choices"][0]["text"]
    assert text == json.dumps(json.loads(text), separators=(",", ":"))
