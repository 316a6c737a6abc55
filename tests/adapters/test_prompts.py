"""Prompts of one checkpoint, from the request to token ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.backend import ChatPrompt, GenerationParams, GenerationRequest, TextPrompt
from adapters.backend_options import BackendOptions
from adapters.checks import ModelFacts
from adapters.prompts import MAX_RENDER_CHARS, ModelText
from engine.errors import ConfigurationError, RequestError
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


@pytest.mark.parametrize("template", [b"{% for %}", b"{{ 'a'", b"\xff", None])
def test_a_chat_template_of_the_settings_that_cannot_be_used_is_named(tmp_path: Path, template: bytes | None) -> None:
    folder, file = write_fault_checkpoint(tmp_path / "model"), tmp_path / "mine.jinja"
    if template is not None:
        file.write_bytes(template)
    with pytest.raises(ConfigurationError, match=f"--chat-template {file} cannot be used: "):
        ModelText(folder, BackendOptions(chat_template=str(file)))


@pytest.mark.parametrize("keep", [1, 5, 300, 2048])
def test_of_a_text_that_is_cut_only_the_end_is_tokenized(text: ModelText, keep: int) -> None:
    long = "".join(f"{i} 字 <|im_end|> word\n" for i in range(2000))
    params = GenerationParams(truncate_prompt_tokens=keep, max_tokens=1)
    encoded = text.encode(GenerationRequest("r", TextPrompt(long), params), FACTS)
    assert encoded.token_ids == text.render(TextPrompt(long)).token_ids[-keep:]
    assert len(encoded.text) <= FACTS.max_model_len * text.tokenizer.longest_token < len(long)


def test_a_conversation_of_megabytes_is_not_rendered_to_be_cut(text: ModelText) -> None:
    prompt = ChatPrompt(({"role": "user", "content": "x" * (MAX_RENDER_CHARS + 1)},))
    asked = GenerationRequest("r", prompt, GenerationParams(truncate_prompt_tokens=5))
    with pytest.raises(RequestError, match="longer than") as refused:
        text.encode(asked, FACTS)
    assert refused.value.param == "messages"
