"""A request's prompt to token ids: template, character count, tokenizer. Large prompts go to a thread."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from adapters.backend import (
    ChatPrompt,
    GenerationParams,
    GenerationRequest,
    Prompt,
    RenderedPrompt,
    TextPrompt,
    TokenPrompt,
)
from adapters.backend_options import BackendOptions
from adapters.checks import BadWords, ModelFacts, check_prompt_ids, too_long
from adapters.grammar_tokens import check_named_tokens
from adapters.patience import INLINE, InlineTrust, OutOfPatienceError, Patience
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

INLINE_CHARS = 4_000
"""Prompts up to this length are tokenized in the event loop: about half a millisecond at most."""
MAX_RENDER_CHARS = 4 << 20
"""Longest text that is tokenized for its own sake; a few seconds of one thread."""
TEXT_THREADS = 2
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
        from adapters import forced_calls, grammars  # noqa: F401 - in this thread, so that no request has to wait

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
        grammar = request_grammar(request, rendered.thinking, tool_format, self._grammar_timeout_s)
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


class TextWorkers:
    """Runs the text side's work, in the event loop when it is short and in a thread when it is not."""

    def __init__(self, text: ModelText) -> None:
        self.text = text
        self._pool = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="text")
        self._trusts_templates = InlineTrust()

    async def encode(self, request: GenerationRequest, facts: ModelFacts) -> EncodedPrompt:
        if _is_short(request) and (not isinstance(request.prompt, ChatPrompt) or self._trusts_templates):
            try:
                return self.text.encode(request, facts, INLINE)
            except OutOfPatienceError:
                self._trusts_templates.betrayed()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.text.encode, request, facts)

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        """Everything /tokenize shows of a prompt. Raises RequestError for one of more than MAX_RENDER_CHARS."""
        check_render_length(prompt)
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


def _is_short(request: GenerationRequest) -> bool:
    """Whether encoding it is a matter of less than a millisecond, unless the template is slow."""
    prompt, chars = request.prompt, sum(map(len, request.params.bad_words))
    if isinstance(prompt, ChatPrompt):
        if forces_call(prompt) or offers_strict_tools(prompt):
            return False
        everything = (prompt.messages, prompt.tools, prompt.chat_template_kwargs, prompt.documents)
        return chars + _chars_in(everything, INLINE_CHARS, per_item=1) <= INLINE_CHARS
    return chars + num_chars(prompt) <= INLINE_CHARS


def forces_call(prompt: Prompt) -> bool:
    """Whether the reply must be a tool call: "required", or a named function."""
    return isinstance(prompt, ChatPrompt) and prompt.tool_choice not in ("none", "auto")


def offers_strict_tools(prompt: Prompt) -> bool:
    """Whether calls that are left to the model must fit their schemas."""
    if not isinstance(prompt, ChatPrompt) or prompt.tool_choice != "auto":
        return False
    return any(tool["function"].get("strict") for tool in prompt.tools)


def request_grammar(
    request: GenerationRequest,
    thinking: ThinkingState | None,
    tool_format: ToolFormat | None,
    timeout_s: float = math.inf,
) -> GrammarSpec | None:
    """The grammar of the whole output: the request's own or that of its tool calls, begun where thinking ends.

    `tool_format`: None where the vocabulary has no tokens around calls, too. Raises RequestError when calls cannot be
    forced, or when the tools' schemas take longer than `timeout_s` to compile.
    """
    prompt, grammar = request.prompt, request.params.grammar
    if not isinstance(prompt, ChatPrompt):
        return grammar
    if forces_call(prompt):
        from adapters.forced_calls import forced_call_grammar

        if tool_format is None:
            raise RequestError("This model's tool calls cannot be forced.", "tool_choice")
        choice = prompt.tool_choice
        wanted = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
        tools = [tool for tool in prompt.tools if wanted in (None, tool["function"]["name"])]
        parallel = prompt.parallel_tool_calls and wanted is None
        grammar = forced_call_grammar(tool_format, tools, parallel=parallel, timeout_s=timeout_s)
    elif tool_format is not None and grammar is None and offers_strict_tools(prompt):
        from adapters.forced_calls import possible_call_grammar

        grammar = possible_call_grammar(
            tool_format, prompt.tools, parallel=prompt.parallel_tool_calls, timeout_s=timeout_s
        )
    if grammar is None:
        return None
    from adapters.grammars import after_thinking

    return after_thinking(grammar, thinking)


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


def _chars_in(value: Any, enough: float = math.inf, per_item: int = 0) -> int:
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
    from adapters.chat_templates import ChatTemplate, load_chat_renderer

    deadline_s = options.limits.template_timeout_s
    if options.chat_template is None:
        return load_chat_renderer(folder, tokenizer, deadline_s=deadline_s)
    try:
        source = Path(options.chat_template).read_text(encoding="utf-8")
        return ChatTemplate(source, tokenizer, deadline_s=deadline_s)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--chat-template cannot be read: {error}") from None


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
