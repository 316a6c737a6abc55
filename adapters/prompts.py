"""A request's prompt to token ids: template, character count, tokenizer. Large prompts go to a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from adapters.backend import ChatPrompt, GenerationParams, Prompt, RenderedPrompt, TextPrompt, TokenPrompt
from adapters.backend_options import BackendOptions
from adapters.chat_templates import ChatRenderer, ChatTemplate, load_chat_renderer
from adapters.checks import ModelFacts, check_prompt_ids, too_long
from adapters.reasoning import ThinkingState
from adapters.tool_calls import ToolFormat
from engine.errors import ConfigurationError, RequestError
from engine.models.config import GenerationDefaults, ModelConfig, load_model_config, parse_generation
from engine.models.fields import Fields, read_json
from engine.text.end_tokens import end_token_ids
from engine.text.tokenizer import Tokenizer, load_tokenizer

INLINE_CHARS = 4_000
"""Prompts up to this length are tokenized in the event loop: about half a millisecond at most."""
TEXT_THREADS = 2
TOOL_FORMATS: dict[str, ToolFormat | None] = {
    "hermes": "hermes",
    "qwen3_coder": "qwen_xml",
    "qwen3_xml": "qwen_xml",
    "none": None,
}


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    token_ids: tuple[int, ...]
    text: str
    thinking: ThinkingState | None = None


class ModelText:
    """The text side of one checkpoint: tokenizer, chat template, defaults. Immutable; made in a thread."""

    def __init__(self, folder: Path, options: BackendOptions) -> None:
        """Reads the checkpoint's small files. Raises ModelLoadError or ConfigurationError."""
        self.config: ModelConfig = load_model_config(folder)
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        self.chat: ChatRenderer = _chat_renderer(folder, self.tokenizer, options)
        self.tool_format: ToolFormat | None = _tool_format(self.chat, options)
        self.splits_thinking = options.reasoning_parser != "none"
        eos = (*end_token_ids(folder, self.tokenizer), *self.config.eos_token_ids)
        self.eos_token_ids: tuple[int, ...] = tuple(dict.fromkeys(eos))
        self.defaults = _generation_defaults(self.config, options)
        token_bytes = self.tokenizer.token_bytes
        self.longest_token = max(len(token_bytes(i)) for i in range(self.tokenizer.vocab_size))
        """Bytes of the longest token: a text of more than this times n characters has more than n tokens."""
        self.default_kwargs: dict[str, Any] = dict(options.default_chat_template_kwargs)

    def encode(self, prompt: Prompt, facts: ModelFacts, params: GenerationParams) -> EncodedPrompt:
        """Checked token ids. Raises RequestError and ContextLengthError with the field's name."""
        if isinstance(prompt, TokenPrompt):
            token_ids = truncated(prompt.token_ids, facts, params)
            check_prompt_ids(token_ids, facts, "prompt")
            return EncodedPrompt(token_ids, "")
        param = param_of(prompt)
        if params.truncate_prompt_tokens is None:
            self.check_length(prompt, facts.max_model_len)
        rendered = self.render(prompt)
        token_ids = truncated(rendered.token_ids, facts, params)
        check_prompt_ids(token_ids, facts, param)
        return EncodedPrompt(token_ids, rendered.text, rendered.thinking)

    def render(self, prompt: Prompt) -> EncodedPrompt:
        """Template and tokenizer, without any check against the context."""
        match prompt:
            case TokenPrompt():
                return EncodedPrompt(prompt.token_ids, self.tokenizer.decode(prompt.token_ids))
            case TextPrompt():
                ids = self.tokenizer.encode(prompt.text, control_tokens=True)
                return EncodedPrompt(tuple(ids), prompt.text)
            case ChatPrompt():
                if self.default_kwargs:
                    kwargs = self.default_kwargs | prompt.chat_template_kwargs
                    prompt = msgspec.structs.replace(prompt, chat_template_kwargs=kwargs)
                chat = self.chat.render(prompt)
                thinking = chat.thinking if self.splits_thinking else None
                return EncodedPrompt(chat.token_ids, chat.text, thinking)

    def check_length(self, prompt: Prompt, max_model_len: int) -> None:
        """Refuses, without tokenizing, a text that must be too long. Raises ContextLengthError."""
        chars = num_chars(prompt)
        if chars > max_model_len * self.longest_token:
            raise too_long(max_model_len, chars // self.longest_token, param_of(prompt))

    def bad_token_ids(self, words: Iterable[str]) -> set[int]:
        """Ids that bad words forbid: each word as one token, alone and after a space.

        Raises RequestError for a word that has no spelling of one token.
        """
        found: set[int] = set()
        for word in words:
            spellings = [self.tokenizer.encode(text) for text in {word, " " + word.lstrip(" ")}]
            single = [ids[0] for ids in spellings if len(ids) == 1]
            if not single:
                message = (
                    "bad_words supports words of one token only; a word has several. Use logit_bias for its first."
                )
                raise RequestError(message, "bad_words")
            found.update(single)
        return found


class TextWorkers:
    """Runs the text side's work, in the event loop when it is short and in a thread when it is not."""

    def __init__(self, text: ModelText) -> None:
        self.text = text
        self._pool = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="text")

    async def encode(self, prompt: Prompt, facts: ModelFacts, params: GenerationParams) -> EncodedPrompt:
        if num_chars(prompt) <= INLINE_CHARS:
            return self.text.encode(prompt, facts, params)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.text.encode, prompt, facts, params)

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        """Everything /tokenize shows of a prompt."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._render, prompt)

    async def detokenize(self, token_ids: tuple[int, ...]) -> str:
        if len(token_ids) <= INLINE_CHARS:
            return self.text.tokenizer.decode(token_ids)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.text.tokenizer.decode, token_ids)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _render(self, prompt: Prompt) -> RenderedPrompt:
        encoded = self.text.render(prompt)
        token_text = self.text.tokenizer.token_text
        return RenderedPrompt(encoded.token_ids, encoded.text, tuple([token_text(i) for i in encoded.token_ids]))


def param_of(prompt: Prompt) -> str:
    """The request's field that holds the prompt."""
    return "messages" if isinstance(prompt, ChatPrompt) else "prompt"


def num_chars(prompt: Prompt) -> int:
    """Characters that will be templated or tokenized; 0 for ids."""
    match prompt:
        case TokenPrompt():
            return 0
        case TextPrompt():
            return len(prompt.text)
        case ChatPrompt():
            return _chars_in(prompt.messages) + _chars_in(prompt.tools)


def truncated(token_ids: tuple[int, ...], facts: ModelFacts, params: GenerationParams) -> tuple[int, ...]:
    """The last `truncate_prompt_tokens` of a prompt; -1 leaves room for the answer."""
    keep = params.truncate_prompt_tokens
    if keep is None:
        return token_ids
    if keep < 0:
        keep = facts.max_model_len - max(1, min(params.max_tokens or 1, facts.max_model_len - 1))
    return token_ids[-keep:] if keep else ()


def _chars_in(value: Any) -> int:
    """Characters of all strings in a JSON value, without recursion."""
    total, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
            stack.extend(item)
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return total


def _chat_renderer(folder: Path, tokenizer: Tokenizer, options: BackendOptions) -> ChatRenderer:
    if options.chat_template is None:
        return load_chat_renderer(folder, tokenizer)
    try:
        return ChatTemplate(Path(options.chat_template).read_text(encoding="utf-8"), tokenizer)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--chat-template cannot be read: {error}") from None


def _tool_format(chat: ChatRenderer, options: BackendOptions) -> ToolFormat | None:
    name = options.tool_call_parser
    if name == "auto":
        return chat.tool_format
    if name not in TOOL_FORMATS:
        raise ConfigurationError(f"--tool-call-parser {name}: known are auto, {', '.join(TOOL_FORMATS)}")
    return TOOL_FORMATS[name]


def _generation_defaults(config: ModelConfig, options: BackendOptions) -> GenerationDefaults:
    if options.generation_config == "vllm":
        return GenerationDefaults()
    if options.generation_config == "auto":
        return config.generation
    path = Path(options.generation_config) / "generation_config.json"
    if not path.is_file():
        raise ConfigurationError(f"--generation-config: {path} is not there")
    return parse_generation(Fields(read_json(path), path))
