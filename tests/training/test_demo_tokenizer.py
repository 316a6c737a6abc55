"""The committed tokenizer and chat template."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.conversation import build
from training.rendering import prompt_of, segments

FOLDER = Path(__file__).parents[2] / "oai_server" / "demo_model"
NO_THINK = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=200)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)


def test_special_tokens_match_the_configuration(tokenizer: Tokenizer) -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.token_to_id("<|im_end|>") == config["eos_token_id"] == generation["eos_token_id"][0]
    assert tokenizer.token_to_id("<|endoftext|>") == config["pad_token_id"] == generation["eos_token_id"][1]
    for marker in ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"):
        assert len(tokenizer.encode(marker, add_special_tokens=False).ids) == 1
        assert tokenizer.decode(tokenizer.encode(marker).ids, skip_special_tokens=True) == marker
    assert tokenizer.decode(tokenizer.encode("<|im_start|>a<|im_end|>").ids, skip_special_tokens=True) == "a"


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("2048 + 17", add_special_tokens=False).tokens == ["2", "0", "4", "8", "Ġ+", "Ġ", "1", "7"]


def test_training_documents_are_what_the_template_writes(reference: Any) -> None:
    """Rendering is done twice, fast in Python for training and by Jinja for serving: they agree, token by token."""
    for seed in range(150):
        conversation = build(f"template-{seed}")
        if isinstance(conversation, str):
            continue
        messages = conversation.to_openai()
        skipped = len(messages) - len(conversation.messages[:-1])
        for message, own in zip(messages[skipped:], conversation.messages, strict=False):
            if conversation.thinking and message["role"] == "assistant":
                message["reasoning_content"] = own.think
        rendered = reference.apply_chat_template(
            messages,
            tools=conversation.tools or None,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=conversation.thinking,
        )
        assert rendered == prompt_of(conversation)
        parts = [text for text, _ in segments(conversation)]
        assert reference.encode("".join(parts)) == [i for part in parts for i in reference.encode(part)]


def render(reference: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    return reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


def test_thinking_is_off_unless_asked_for(reference: Any) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    turn = "<|im_start|>user\nHello<|im_end|>\n"
    assert render(reference, hello) == turn + NO_THINK
    assert render(reference, hello, enable_thinking=False) == turn + NO_THINK
    assert render(reference, hello, enable_thinking=True) == turn + "<|im_start|>assistant\n<think>\n"


def test_past_thinking_is_dropped_and_kept_inside_a_tool_loop(reference: Any) -> None:
    past = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nhidden\n</think>\n\nb"},
        {"role": "user", "content": "c"},
    ]
    assert "hidden" not in render(reference, past)
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    loop = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "reasoning_content": "because", "tool_calls": [call]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    assert render(reference, loop) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\nbecause\n</think>\n\n"
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        + NO_THINK
    )


def test_tools_follow_the_system_prompt(reference: Any) -> None:
    tool = {"type": "function", "function": {"name": "wetter", "description": "天气", "parameters": {}}}
    text = render(
        reference, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "x"}], tools=[tool]
    )
    assert text.startswith("<|im_start|>system\nBe kind.\n\n# Tools\n\n")
    assert "<tools>\n" + json.dumps(tool, ensure_ascii=False) + "\n</tools>" in text
