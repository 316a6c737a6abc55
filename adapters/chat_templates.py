"""A conversation to the prompt's token ids, through the chat template that the checkpoint brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import jinja2
import msgspec

from adapters.backend import ChatPrompt
from adapters.compiled_template import CompiledTemplate
from adapters.encode_cache import EncodeCache
from adapters.messages import normalise_messages, normalise_tools
from adapters.patience import OutOfPatienceError, Patience
from adapters.reasoning import OPEN_TAG, ThinkingState, thinking_state
from adapters.template_probes import find_traits
from adapters.template_sandbox import BudgetError
from adapters.tool_calls import ToolFormat
from engine.errors import RequestError
from engine.text.checkpoint_files import read_json
from engine.text.tokenizer import Tokenizer

RENDER_DEADLINE_S = 2.0
MAX_PROMPT_CHARS = 16 << 20
MAX_KWARGS_BYTES = 16 << 10

# fmt: off
_RESERVED = frozenset({
    "add_generation_prompt", "bos_token", "chat_template", "continue_final_message", "conversation", "cycler", "dict",
    "documents", "eos_token", "joiner", "messages", "namespace", "pad_token", "raise_exception", "range",
    "return_dict", "strftime_now", "tokenize", "tools", "unk_token",
})
# fmt: on
NO_TOOLS = "This model's chat template does not support tools; --chat-template may name one that does."
_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
_CONTINUE_TAG = "\ue002continue\ue003"

TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a wrong template, or messages that it does not expect, can raise."""


class RenderedChat(msgspec.Struct, frozen=True):
    text: str
    token_ids: tuple[int, ...]
    thinking: ThinkingState | None = None
    """Where the prompt leaves the model; None when the model does not think."""


class ChatRenderer(Protocol):
    """Conversations of one model to prompts. Thread-safe; rendering is bounded in time and text."""

    supports_thinking: bool
    tool_format: ToolFormat | None
    """None: the template has no place for tools."""

    def render(self, prompt: ChatPrompt, cache_salt: str = "", patience: Patience | None = None) -> RenderedChat:
        """Raises RequestError, with the place in the messages when it is theirs.

        Ids of long texts are remembered for requests with the same salt. With `patience`, OutOfPatienceError says
        that it was not enough.
        """
        ...


def load_chat_renderer(
    folder: str | Path, tokenizer: Tokenizer, *, deadline_s: float = RENDER_DEADLINE_S
) -> ChatRenderer:
    """The renderer for a checkpoint folder; one that refuses every conversation when there is no usable template.

    `deadline_s`: how long one rendering may take.
    """
    folder = Path(folder)
    source = template_source(folder)
    if source is None and read_json(folder / "config.json").get("model_type") == "qwen":
        from adapters.qwen1_chatml import Qwen1ChatML

        if read_json(folder / "generation_config.json").get("chat_format", "chatml") == "chatml":
            return Qwen1ChatML(tokenizer)
    if source is None:
        return NoChatTemplate("This model has no chat template (it is a base model); use /v1/completions.")
    try:
        return ChatTemplate(source, tokenizer, deadline_s=deadline_s)
    except TEMPLATE_ERRORS as error:
        return NoChatTemplate(f"This model's chat template cannot be used: {error}")


def template_source(folder: Path) -> str | None:
    """chat_template.jinja, else chat_template.json, else tokenizer_config.json; of several named ones the default."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        source = read_json(folder / name).get("chat_template")
        if isinstance(source, list):
            named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
            source = named.get("default", next(iter(named.values()), None))
        if isinstance(source, str) and source:
            return source
    return None


class NoChatTemplate:
    """Stands where a checkpoint has no template."""

    supports_thinking = False
    tool_format: ToolFormat | None = None

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def render(self, prompt: ChatPrompt, cache_salt: str = "", patience: Patience | None = None) -> RenderedChat:
        raise RequestError(self._reason, "messages")


class ChatTemplate:
    """A jinja chat template over one tokenizer."""

    def __init__(self, source: str, tokenizer: Tokenizer, *, deadline_s: float = RENDER_DEADLINE_S) -> None:
        """Raises jinja2.TemplateError when the source is no template."""
        self._tokenizer = tokenizer
        self._template = CompiledTemplate(source, tokenizer.control_tokens)
        self._source = source
        self._encoded = EncodeCache(tokenizer)
        self._patience = Patience(deadline_s, MAX_PROMPT_CHARS)
        named = {"bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id}
        self._constants = {
            name: self._template.mark(tokenizer.token_text(token_id)) for name, token_id in named.items() if token_id
        }
        self.supports_thinking = OPEN_TAG in source
        self.tool_format: ToolFormat | None = None
        if "tools" in self._template.reads:
            self.tool_format = "qwen_xml" if "<function=" in source else "hermes" if "<tool_call>" in source else None
        self._traits = find_traits(self._probe)

    def render(self, prompt: ChatPrompt, cache_salt: str = "", patience: Patience | None = None) -> RenderedChat:
        """Raises RequestError (param messages, messages[i]..., tools..., chat_template_kwargs, reasoning_effort)."""
        if prompt.add_generation_prompt and prompt.continue_final_message:
            message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
            raise RequestError(message, "continue_final_message")
        if prompt.tools and self.tool_format is None and prompt.tool_choice != "none":
            raise RequestError(NO_TOOLS, "tools")
        messages = normalise_messages(prompt.messages, self._traits)
        variables = self._kwargs(prompt)
        variables["tools"] = normalise_tools(prompt.tools) if prompt.tools and self.tool_format else None
        variables["documents"] = list(prompt.documents) or None
        variables["add_generation_prompt"] = prompt.add_generation_prompt
        if prompt.continue_final_message:
            messages[-1]["content"] = (messages[-1]["content"] or "") + _CONTINUE_TAG + " "
        try:
            pieces = self.render_pieces(messages, variables, patience)
        except TEMPLATE_ERRORS as error:
            if patience is not None and isinstance(error, BudgetError):
                raise OutOfPatienceError from None
            raise RequestError(f"The chat template refused these messages: {error}", "messages") from None
        if prompt.continue_final_message:
            pieces = _cut_at_tag(pieces)
        return self._encode(pieces, cache_salt)

    def render_pieces(
        self, messages: list[dict[str, Any]], variables: dict[str, Any], patience: Patience | None = None
    ) -> list[str]:
        """The template on messages as they are: plain text at even places, the template's control tokens at odd ones.

        Raises one of TEMPLATE_ERRORS.
        """
        everything = self._constants | variables | {"messages": messages}
        patience = patience or self._patience
        return self._template.render(everything, deadline_s=patience.deadline_s, max_chars=patience.max_chars)

    def _encode(self, pieces: list[str], cache_salt: str) -> RenderedChat:
        token_ids: list[int] = []
        for i, piece in enumerate(pieces):
            if i % 2:
                token_ids.append(self._tokenizer.control_tokens[piece])
            else:
                token_ids += self._encoded.encode(piece, cache_salt)
        thinking = thinking_state(pieces[-1]) if self.supports_thinking else None
        return RenderedChat("".join(pieces), tuple(token_ids), thinking)

    def _kwargs(self, prompt: ChatPrompt) -> dict[str, Any]:
        """The request's own template variables: those that the template reads, without the reserved ones."""
        given = prompt.chat_template_kwargs
        reserved = sorted(_RESERVED.intersection(given))
        if reserved:
            raise RequestError(f"chat_template_kwargs cannot set {', '.join(reserved)}.", "chat_template_kwargs")
        try:
            size = len(msgspec.json.encode(given))
        except (TypeError, ValueError, RecursionError):
            size = MAX_KWARGS_BYTES + 1
        if size > MAX_KWARGS_BYTES:
            raise RequestError("chat_template_kwargs is too large or too deep.", "chat_template_kwargs")
        kwargs = {name: value for name, value in given.items() if name in self._template.options}
        effort = prompt.reasoning_effort
        if effort is not None:
            kwargs.setdefault("enable_thinking", effort != "none")
            if effort != "none":
                kwargs.setdefault("reasoning_effort", self._known_effort(effort))
        return kwargs

    def _known_effort(self, effort: str) -> str:
        """The effort itself if the template spells it, else the nearest one that it does, the higher of two."""
        known = [name for name in _EFFORTS if f"'{name}'" in self._source or f'"{name}"' in self._source]
        if effort in known or effort not in _EFFORTS or not known:
            return effort
        at = _EFFORTS.index(effort)
        return min(known, key=lambda name: (abs(_EFFORTS.index(name) - at), -_EFFORTS.index(name)))

    def _probe(self, messages: list[dict[str, Any]]) -> str | None:
        """What a probe renders to; None when the template refuses it."""
        try:
            return "".join(self.render_pieces(messages, {"tools": None, "add_generation_prompt": True}))
        except TEMPLATE_ERRORS:
            return None


def _cut_at_tag(pieces: list[str]) -> list[str]:
    """What stands before the final message's end. Where the template trims it, its trailing blanks go too."""
    for i in range(len(pieces) - 1, -1, -1):
        at = pieces[i].rfind(_CONTINUE_TAG)
        if at >= 0:
            kept = pieces[i][:at]
            trimmed = not pieces[i].startswith(_CONTINUE_TAG + " ", at)
            return [*pieces[:i], kept.rstrip() if trimmed else kept]
    raise RequestError("The chat template drops the final message; it cannot be continued.", "continue_final_message")
