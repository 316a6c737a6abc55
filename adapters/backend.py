"""What the HTTP routes ask of whatever generates text. The engine's backend implements it, and so does a test's fake.

Errors are engine.errors: RequestError (the client's fault, names the parameter), EngineOverloadedError,
EngineDeadError. All checks of a request, its admission included, happen in `generate` before it returns, so that a
stream never starts with an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

import msgspec

from engine.request import EngineStats, GrammarSpec

HealthState = Literal["starting", "ready", "restarting", "draining", "dead"]


class Health(msgspec.Struct, frozen=True):
    state: HealthState
    phase: str = ""
    """While starting: "weights", "warm-up", ..."""
    fraction: float = 0.0
    detail: str = ""


class ModelCard(msgspec.Struct, frozen=True):
    """What is served. The first id is the one that replies carry."""

    ids: tuple[str, ...]
    root: str
    """Checkpoint folder's name or hub id; never a full path of the host."""
    created: int
    """Unix seconds."""
    max_model_len: int
    supports_thinking: bool
    supports_tools: bool


# ---- what is asked


class TextPrompt(msgspec.Struct, frozen=True):
    text: str
    add_special_tokens: bool = True


class TokenPrompt(msgspec.Struct, frozen=True):
    token_ids: tuple[int, ...]


class ChatPrompt(msgspec.Struct, frozen=True):
    """An OpenAI conversation as plain JSON objects, already of the right JSON types."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    """"none", "auto", "required", or the one function to call as {"type": "function", "function": {"name": ...}}."""
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    reasoning_effort: str | None = None
    include_reasoning: bool = True
    documents: tuple[dict[str, Any], ...] = ()
    """For templates that read them; others leave them out."""

    @property
    def forces_call(self) -> bool:
        """Whether the reply must be a tool call: "required", or a named function."""
        return self.tool_choice not in ("none", "auto")

    @property
    def offers_strict_tools(self) -> bool:
        """Whether calls that are left to the model must fit their schemas."""
        return self.tool_choice == "auto" and any(tool["function"].get("strict") for tool in self.tools)


Prompt = TextPrompt | TokenPrompt | ChatPrompt


class GenerationParams(msgspec.Struct, frozen=True):
    """None means: the model's generation_config.json, then the neutral value."""

    max_tokens: int | None = None
    """None: what is left of the context."""
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    seed: int | None = None
    logprobs: int | None = None
    """None: off. k: the sampled token and the k most likely."""
    prompt_logprobs: int | None = None
    grammar: GrammarSpec | None = None
    truncate_prompt_tokens: int | None = None


class GenerationRequest(msgspec.Struct, frozen=True):
    request_id: str
    prompt: Prompt
    params: GenerationParams
    stream: bool = False
    """False: nothing is delivered before the end, so the front is not woken for each token."""
    priority: int = 0
    cache_salt: str = ""
    """The request's own salt joined with its API key's."""
    deadline_s: float | None = None
    """Seconds from now after which the request is cancelled and ends with an error."""


# ---- what comes back


class Logprob(msgspec.Struct, frozen=True):
    """One token as text and bytes with its raw logprob."""

    token: str
    """Text of this token alone; bytes that are no UTF-8 are shown as \\xNN."""
    token_bytes: bytes
    token_id: int
    logprob: float
    rank: int = 0


class PositionLogprobs(msgspec.Struct, frozen=True):
    chosen: Logprob
    top: tuple[Logprob, ...] = ()
    """The k most likely, most likely first."""
    text_offset: int = 0
    """Characters of the reply's text (for prompt_logprobs: of the prompt) before this token."""


class ToolCallDelta(msgspec.Struct, frozen=True):
    """First delta of a call: id and name; later ones: pieces of the arguments' JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class ChoiceDelta(msgspec.Struct, frozen=True):
    """What is new for one choice since its last delta. Concatenated over a choice's life it is the whole choice."""

    index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    stop_reason: int | str | None = None
    """The stop string or the non-eos stop id that ended it."""


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    completion_tokens_by_choice: tuple[int, ...] = ()


class ChoiceTimes(msgspec.Struct, frozen=True, gc=False):
    """When a choice passed the stations of its way; all on the clock of time.monotonic()."""

    arrival_s: float
    scheduled_s: float
    """It left the queue."""
    first_token_s: float
    last_token_s: float


class Generation(Protocol):
    """A running (admitted) generation of n choices over one prompt."""

    prompt_token_ids: tuple[int, ...]
    prompt_text: str
    """The prompt as text: rendered template, decoded ids, or the text itself."""

    def __aiter__(self) -> AsyncIterator[tuple[ChoiceDelta, ...]]:
        """Everything that is there each time the consumer comes; ends after every choice has a finish_reason.

        With stream=False: exactly one batch, one whole delta a choice. Raises EngineDeadError, RequestError
        (deadline, poisoned request) in mid-stream.
        """
        ...

    @property
    def usage(self) -> Usage:
        """Up to date with what the iterator has handed out."""
        ...

    @property
    def prompt_logprobs(self) -> tuple[PositionLogprobs | None, ...]:
        """After the first delta, when asked for."""
        ...

    @property
    def times(self) -> tuple[ChoiceTimes | None, ...]:
        """Of the choices in order, once they have ended; None for one without a token."""
        ...

    def cancel(self) -> None:
        """Synchronous and idempotent; blocks are free within one engine step. A finished generation ignores it."""
        ...


class RenderedPrompt(msgspec.Struct, frozen=True):
    token_ids: tuple[int, ...]
    text: str
    token_strs: tuple[str, ...] = ()


class Backend(Protocol):
    """One served model."""

    @property
    def card(self) -> ModelCard: ...

    async def start(self) -> None:
        """Begin to start and return at once; `health` tells when it is ready."""
        ...

    async def stop(self) -> None: ...

    def health(self) -> Health: ...

    def stats(self) -> EngineStats:
        """The latest snapshot."""
        ...

    def check_room(self, num_choices: int) -> None:
        """For who is about to work on a request before `generate`. Raises EngineOverloadedError."""
        ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """Check, render, encode, admit.

        Raises RequestError (with `param`), ContextLengthError, EngineOverloadedError, EngineDeadError.
        """
        ...

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        """Template and tokenizer only: for /tokenize and for counting."""
        ...

    async def detokenize(self, token_ids: tuple[int, ...]) -> str: ...
