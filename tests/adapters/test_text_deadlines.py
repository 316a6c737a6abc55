"""The time that a template and the grammars of a forced call may take comes from the server's settings."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from adapters.backend import ChatPrompt, GenerationParams, GenerationRequest
from adapters.backend_options import BackendLimits, BackendOptions
from adapters.call_grammars import forced_call_grammar
from adapters.prompts import ModelText
from adapters.reply_grammar import request_grammar
from engine.errors import RequestError
from oai_server.settings import Settings
from oai_server.start import backend_options
from tests.support.fault_checkpoint import write_fault_checkpoint

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TOOLS = tuple({"type": "function", "function": {"name": f"tool_{i}", "parameters": {}}} for i in range(512))


def test_the_settings_reach_the_backend() -> None:
    limits = backend_options(Settings(template_timeout=0.25, grammar_timeout=0.75)).limits
    assert (limits.template_timeout_s, limits.grammar_timeout_s) == (0.25, 0.75)


@pytest.mark.parametrize("where", ["checkpoint", "--chat-template"])
def test_a_template_is_stopped_after_the_time_it_may_take(tmp_path: Path, where: str) -> None:
    folder = write_fault_checkpoint(tmp_path / "model")
    file = folder / "chat_template.jinja" if where == "checkpoint" else tmp_path / "mine.jinja"
    file.write_text(ENDLESS)
    chosen = None if where == "checkpoint" else str(file)
    text = ModelText(folder, BackendOptions(chat_template=chosen, limits=BackendLimits(template_timeout_s=0.1)))
    began_s, worked_s = time.monotonic(), time.process_time()
    with pytest.raises(RequestError, match="rendering took too long") as caught:
        text.render(ChatPrompt(({"role": "user", "content": "x"},)))
    assert caught.value.param == "messages"
    assert time.monotonic() - began_s >= 0.1
    assert time.process_time() - worked_s < 1.5


def test_the_tools_of_a_forced_call_compile_in_time_or_not_at_all() -> None:
    prompt = ChatPrompt(({"role": "user", "content": "x"},), tools=TOOLS, tool_choice="required")
    request = GenerationRequest("request", prompt, GenerationParams())
    with pytest.raises(RequestError, match=r"longer than 1e-06 s") as caught:
        request_grammar(request, None, "hermes", 1e-6)
    assert caught.value.param == "tools"
    assert request_grammar(request, None, "hermes", 60.0) == forced_call_grammar("hermes", TOOLS)
