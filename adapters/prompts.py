"""A request's prompt to token ids: character count, template, tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from adapters.backend import ChatPrompt, GenerationParams, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from adapters.backend_options import BackendOptions
from adapters.checks import BadWords, ModelFacts, check_prompt_ids, too_long
from adapters.grammar_tokens import check_named_tokens
from adapters.patience import Patience
from adapters.reasoning import ThinkingState
from adapters.tool_calls import ToolFormat
from engine.errors import ConfigurationError, RequestError
from engine.models.config import GenerationDefaults, ModelConfig, load_model_config, parse_generation
from engine.models.fields import Fields, read_json
from engine.request import GrammarSpec
from engine.text.end_tokens import end_token_ids
from engine.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:  # jinja2 and llguidance are not needed before the port is open
    from adapters.chat_templates import ChatRenderer

MAX_RENDER_CHARS = 4 << 20
"""Longest text that is tokenized for its own sake; a few seconds of one thread."""
TOOL_FORMATS: dict[str, ToolFormat | None] = {
    "hermes": "hermes",
    "qwen3_coder": "qwen_xml",
    "qwen3_xml": "qwen_xml",
    "none": None,
}
REASONING_PARSERS = ("auto", "qwen3", "deepseek_r1", "none")
"""All but none are one parser, which follows from how the prompt ends."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    token_ids: tuple[int, ...]
    text: str
    thinking: ThinkingState | None = None
    grammar: GrammarSpec | None = None
    """What the output must obey, as the engine gets it."""
    bad_words: BadWords = ()


class ModelText:
    """The text side of one checkpoint: tokenizer, chat template, defaults. Immutable; made in a thread."""

    def __init__(self, folder: Path, options: BackendOptions) -> None:
        """Reads the checkpoint's small files. Raises ModelLoadError or ConfigurationError."""
        from adapters.reply_grammar import request_grammar  # in this thread, so that no request has to wait

        self._request_grammar = request_grammar
        self.config: ModelConfig = load_model_config(folder)
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        self.chat: ChatRenderer = _chat_renderer(folder, self.tokenizer, options)
        self.tool_format: ToolFormat | None = _tool_format(self.chat, options)
        self.splits_thinking = _splits_thinking(options)
        eos = (*end_token_ids(folder, self.tokenizer), *self.config.eos_token_ids)
        self.eos_token_ids: tuple[int, ...] = tuple(dict.fromkeys(eos))
        self.defaults = _generation_defaults(self.config, options)
        self.default_kwargs: dict[str, Any] = dict(options.default_chat_template_kwargs)
        self._grammar_timeout_s = options.limits.grammar_timeout_s

    def encode(
        self, request: GenerationRequest, facts: ModelFacts, patience: Patience | None = None
    ) -> EncodedPrompt:
        """Checked token ids. Raises RequestError and ContextLengthError with the field's name.

        With `patience`, OutOfPatienceError says that the template needs more.
        """
        prompt, params = request.prompt, request.params
        bad_words = self.bad_word_ids(params.bad_words)
        if params.grammar is not None:
            check_named_tokens(params.grammar, self.tokenizer)
        if isinstance(prompt, TokenPrompt):
            token_ids = truncated(prompt.token_ids, facts, params)
            check_prompt_ids(token_ids, facts, "prompt")
            return EncodedPrompt(token_ids, "", grammar=params.grammar, bad_words=bad_words)
        param = param_of(prompt)
        if params.truncate_prompt_tokens is None:
            self.check_length(prompt, facts.max_model_len)
        else:
            prompt = self.end_of(prompt, facts.max_model_len)
        rendered = self.render(prompt, request.cache_salt, patience)
        token_ids = truncated(rendered.token_ids, facts, params)
        check_prompt_ids(token_ids, facts, param)
        tool_format = self.tool_format if self.tokenizer.token_id("<tool_call>") is not None else None
        grammar = self._request_grammar(request, rendered.thinking, tool_format, self._grammar_timeout_s)
        return EncodedPrompt(token_ids, rendered.text, rendered.thinking, grammar, bad_words)

    def render(self, prompt: Prompt, cache_salt: str = "", patience: Patience | None = None) -> EncodedPrompt:
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
                chat = self.chat.render(prompt, cache_salt, patience)
                thinking = chat.thinking if self.splits_thinking else None
                return EncodedPrompt(chat.token_ids, chat.text, thinking)

    def check_length(self, prompt: Prompt, max_model_len: int) -> None:
        """Refuses, without tokenizing, a text that must be too long. Raises ContextLengthError."""
        chars = num_chars(prompt)
        at_least = chars // self.tokenizer.longest_token  # no token has more characters than bytes
        if at_least > max_model_len:
            raise too_long(max_model_len, at_least, param_of(prompt))

    def end_of(self, prompt: Prompt, max_model_len: int) -> Prompt:
        """The end of a text from which no more than `max_model_len` tokens are kept, as far as they can reach.

        Raises RequestError for a conversation of more than MAX_RENDER_CHARS, which a template has to see whole.
        """
        if isinstance(prompt, TextPrompt):
            return msgspec.structs.replace(prompt, text=prompt.text[-max_model_len * self.tokenizer.longest_token :])
        check_render_length(prompt)
        return prompt

    def bad_word_ids(self, words: Iterable[str]) -> BadWords:
        """How each word is written in tokens: at the start of a text, and after a space where that is as short.

        vLLM's choice of spellings; a word of white space alone is taken as it is.
        """
        found: dict[tuple[int, ...], None] = {}
        for word in words:
            bare = word.lstrip() or word
            first = tuple(self.tokenizer.encode(bare))
            inner = tuple(self.tokenizer.encode(" " + bare))
            found[first] = None
            if len(inner) == len(first) and inner[0] != first[0]:
                found[inner] = None
        found.pop((), None)
        return tuple(found)


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
            return chars_in(prompt.messages) + chars_in(prompt.tools)


def check_render_length(prompt: Prompt) -> None:
    """Raises RequestError for more than MAX_RENDER_CHARS."""
    if num_chars(prompt) > MAX_RENDER_CHARS:
        raise RequestError(f"The text is longer than {MAX_RENDER_CHARS} characters.", param_of(prompt))


def truncated(token_ids: tuple[int, ...], facts: ModelFacts, params: GenerationParams) -> tuple[int, ...]:
    """The last `truncate_prompt_tokens` of a prompt; -1 leaves room for the answer."""
    keep = params.truncate_prompt_tokens
    if keep is None:
        return token_ids
    if keep < 0:
        keep = facts.max_model_len - max(1, min(params.max_tokens or 1, facts.max_model_len - 1))
    return token_ids[-keep:] if keep else ()


def chars_in(value: Any, enough: float = math.inf, per_item: int = 0) -> int:
    """Characters of all strings in a JSON value, and `per_item` for everything in it, without recursion.

    Ends as soon as there are more than `enough`.
    """
    total, stack = 0, [value]
    while stack and total <= enough:
        item = stack.pop()
        total += per_item
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
            stack.extend(item)
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return total


def _chat_renderer(folder: Path, tokenizer: Tokenizer, options: BackendOptions) -> ChatRenderer:
    from adapters.chat_templates import TEMPLATE_ERRORS, ChatTemplate, load_chat_renderer

    deadline_s = options.limits.template_timeout_s
    if options.chat_template is None:
        return load_chat_renderer(folder, tokenizer, deadline_s=deadline_s)
    try:
        source = Path(options.chat_template).read_text(encoding="utf-8")
        return ChatTemplate(source, tokenizer, deadline_s=deadline_s)
    except (OSError, *TEMPLATE_ERRORS) as error:
        raise ConfigurationError(f"--chat-template {options.chat_template} cannot be used: {error}") from None


def _tool_format(chat: ChatRenderer, options: BackendOptions) -> ToolFormat | None:
    name = options.tool_call_parser
    if name == "auto":
        return chat.tool_format
    if name not in TOOL_FORMATS:
        raise ConfigurationError(f"--tool-call-parser {name}: known are auto, {', '.join(TOOL_FORMATS)}")
    return TOOL_FORMATS[name]


def _splits_thinking(options: BackendOptions) -> bool:
    name = options.reasoning_parser
    if name not in REASONING_PARSERS:
        raise ConfigurationError(f"--reasoning-parser {name}: known are {', '.join(REASONING_PARSERS)}")
    return name != "none"


def _generation_defaults(config: ModelConfig, options: BackendOptions) -> GenerationDefaults:
    if options.generation_config == "vllm":
        return GenerationDefaults()
    if options.generation_config == "auto":
        return config.generation
    path = Path(options.generation_config) / "generation_config.json"
    if not path.is_file():
        raise ConfigurationError(f"--generation-config: {path} is not there")
    return parse_generation(Fields(read_json(path), path))
