"""Prompts of one checkpoint, from the request to token ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.backend import ChatPrompt, GenerationParams, GenerationRequest
from adapters.backend_options import BackendOptions
from adapters.checks import ModelFacts
from adapters.prompts import ModelText
from engine.errors import RequestError
from engine.models.config import GenerationDefaults
from engine.request import GrammarSpec
from tests.support.fault_checkpoint import write_fault_checkpoint
from tests.support.qwen_data import qwen_data

TOOLS = ({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},)
FACTS = ModelFacts(260, 2048, (257,), GenerationDefaults(), 2048)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ModelText:
    """A vocabulary from before tool calls, with a template that knows them."""
    folder = write_fault_checkpoint(tmp_path_factory.mktemp("model"))
    template: Path = qwen_data() / "templates" / "qwen2.5-instruct.jinja"
    return ModelText(folder, BackendOptions(chat_template=str(template)))


def request(choice: object, grammar: GrammarSpec | None = None) -> GenerationRequest:
    prompt = ChatPrompt(({"role": "user", "content": "x"},), TOOLS, tool_choice=choice)  # type: ignore[arg-type]
    return GenerationRequest("r", prompt, GenerationParams(grammar=grammar))


def test_calls_cannot_be_forced_without_a_token_for_them(text: ModelText) -> None:
    assert "<tools>" in text.encode(request("auto"), FACTS).text
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        with pytest.raises(RequestError, match="cannot be forced") as refused:
            text.encode(request(choice), FACTS)
        assert refused.value.param == "tool_choice"


def test_tokens_that_a_grammar_names_are_the_models(text: ModelText) -> None:
    good = GrammarSpec("lark", 'start: "a" <|im_end|> | <[258]>', "grammar")
    assert text.encode(request("none", good), FACTS).grammar == good
    for lark in ("start: <think>", "start: <[259]>"):
        with pytest.raises(RequestError, match="has no token") as refused:
            text.encode(request("none", GrammarSpec("lark", lark, "grammar")), FACTS)
        assert refused.value.param == "grammar"
