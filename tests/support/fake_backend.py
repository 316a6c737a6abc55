"""A backend without an engine, for tests and benchmarks of the HTTP layer. Each behaviour is a field of `Script`.

Text: the words of the prompt repeated, so that what must come back can be computed (`expected_text`).
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec

from adapters.backend import (
    ChatPrompt,
    ChoiceDelta,
    ChoiceTimes,
    GenerationRequest,
    Health,
    Logprob,
    ModelCard,
    PositionLogprobs,
    Prompt,
    RenderedPrompt,
    TextPrompt,
    TokenPrompt,
    ToolCallDelta,
    Usage,
)
from engine.errors import ContextLengthError, EngineOverloadedError, EngineUnavailableError
from engine.request import EngineStats

DEFAULT_LENGTH = 8
CONTEXT = 4096
READY = Health("ready")


@dataclass
class Script:
    """What the backend does. Change the fields between requests."""

    delay_s: float = 0.0
    """Before every token."""
    gate: threading.Event | None = None
    """No token before it is set."""
    admission_delay_s: float = 0.0
    texts: list[str] | None = None
    """Tokens of every reply, instead of the prompt's words."""
    reasoning: list[str] = field(default_factory=list)
    """Thinking before the text."""
    tool_calls: list[tuple[ToolCallDelta, ...]] = field(default_factory=list)
    """Deltas after the text; the reply then ends with tool_calls."""
    burst: int = 1
    """Tokens a batch."""
    fail_after: int | None = None
    """Tokens after which `error` is raised."""
    error: Exception | None = None
    admission_error: Exception | None = None
    max_live: int | None = None
    """Generations beyond which admission is refused."""
    health: Health = READY


class FakeGeneration:
    """One scripted generation. Counts itself in `backend.live` until it has ended or is cancelled."""

    def __init__(self, backend: FakeBackend, request: GenerationRequest, prompt: RenderedPrompt) -> None:
        self.request = request
        self.prompt_token_ids = prompt.token_ids
        self.prompt_text = prompt.text
        self._backend = backend
        self._counts = [0] * request.params.n
        self._done = False
        self._tokens = _tokens(backend.script, request, prompt.text)
        self._moments = [time.monotonic()]
        backend.live.add(self)

    async def __aiter__(self) -> AsyncIterator[tuple[ChoiceDelta, ...]]:
        try:
            batches = self._deltas()
            if self.request.stream:
                async for batch in batches:
                    yield batch
            else:
                whole = [ChoiceDelta(index) for index in range(self.request.params.n)]
                async for batch in batches:
                    for delta in batch:
                        whole[delta.index] = _joined(whole[delta.index], delta)
                yield tuple(whole)
        except Exception:
            self._end(cancelled=False)
            raise
        self._end(cancelled=False)

    async def _deltas(self) -> AsyncIterator[tuple[ChoiceDelta, ...]]:
        script = self._backend.script
        position = 0
        for step in _batches(self._tokens, script.burst):
            if script.fail_after is not None and position >= script.fail_after and script.error is not None:
                raise script.error
            while script.gate is not None and not script.gate.is_set():
                await asyncio.sleep(0.002)
            await asyncio.sleep(script.delay_s)
            self._moments.append(time.monotonic())
            last = position + len(step) == len(self._tokens)
            yield tuple(
                _joined_all(
                    index, [self._delta(index, token, position + i) for i, token in enumerate(step)], last, self
                )
                for index in range(self.request.params.n)
            )
            position += len(step)

    def _delta(
        self, index: int, token: str | tuple[str, str] | tuple[ToolCallDelta, ...], position: int
    ) -> ChoiceDelta:
        self._counts[index] += 1
        params = self.request.params
        if isinstance(token, str):
            logprobs = (_logprob(token, position, params.logprobs),) if params.logprobs is not None else ()
            return ChoiceDelta(index, content=token, token_ids=(position,), logprobs=logprobs)
        if token and isinstance(token[0], ToolCallDelta):
            return ChoiceDelta(index, tool_calls=token, token_ids=(position,))  # type: ignore[arg-type]
        return ChoiceDelta(index, reasoning=str(token[1]), token_ids=(position,))

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.prompt_token_ids),
            completion_tokens=sum(self._counts),
            cached_tokens=min(1, len(self.prompt_token_ids)),
            reasoning_tokens=len(self._backend.script.reasoning) * self.request.params.n,
            completion_tokens_by_choice=tuple(self._counts),
        )

    @property
    def prompt_logprobs(self) -> tuple[PositionLogprobs | None, ...]:
        if self.request.params.prompt_logprobs is None:
            return ()
        words = _words(self.prompt_text)
        offsets = [sum(map(len, words[:i])) for i in range(len(words))]
        k = self.request.params.prompt_logprobs
        return (
            None,
            *(
                msgspec.structs.replace(_logprob(word, i + 1, k), text_offset=offset)
                for i, (word, offset) in enumerate(zip(words[1:], offsets[1:], strict=True))
            ),
        )

    @property
    def times(self) -> tuple[ChoiceTimes | None, ...]:
        """It waits for nothing; its prefill takes as long as a token."""
        moments = self._moments
        one = ChoiceTimes(moments[0], moments[0], moments[1], moments[-1]) if len(moments) > 1 else None
        return (one,) * self.request.params.n

    def cancel(self) -> None:
        self._end(cancelled=True)

    def _end(self, *, cancelled: bool) -> None:
        if not self._done:
            self._done = True
            self._backend.live.discard(self)
            self._backend.ended["cancelled" if cancelled else "finished"] += 1


class FakeBackend:
    """Implements `adapters.backend.Backend`."""

    def __init__(
        self, script: Script | None = None, ids: tuple[str, ...] = ("fake", "alias"), context: int = CONTEXT
    ) -> None:
        self.script = script or Script()
        self.live: set[FakeGeneration] = set()
        self.ended: Counter[str] = Counter()
        self.requests: list[GenerationRequest] = []
        self._card = ModelCard(ids, "fake-root", 1_700_000_000, context, supports_thinking=True, supports_tools=True)

    @property
    def card(self) -> ModelCard:
        return self._card

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    def health(self) -> Health:
        return self.script.health

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self.live), kv_blocks_total=100, kv_blocks_used=len(self.live), block_size=16
        )

    def check_room(self, num_choices: int) -> None:
        if self.script.max_live is not None and len(self.live) + num_choices > self.script.max_live:
            raise EngineOverloadedError("The queue is full.", retry_after_s=1.5)

    async def generate(self, request: GenerationRequest) -> FakeGeneration:
        self.requests.append(request)
        del self.requests[:-100]
        if (
            self.script.admission_delay_s
        ):  # without: admitted in one turn, as the engine's backend admits short prompts
            await asyncio.sleep(self.script.admission_delay_s)
        if self.script.admission_error is not None:
            raise self.script.admission_error
        if self.script.health.state != "ready":
            raise EngineUnavailableError("The engine is starting.", retry_after_s=2.0)
        self.check_room(1)
        prompt = await self.render(request.prompt)
        context = self._card.max_model_len
        if len(prompt.token_ids) > context:
            raise ContextLengthError(
                f"This model's maximum context length is {context} tokens. However, your prompt contains "
                f"{len(prompt.token_ids)} input tokens."
            )
        return FakeGeneration(self, request, prompt)

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        if isinstance(prompt, TokenPrompt):
            words = [f" t{token_id}" for token_id in prompt.token_ids]
            return RenderedPrompt(prompt.token_ids, "".join(words), tuple(words))
        text = prompt.text if isinstance(prompt, TextPrompt) else _rendered(prompt)
        words = _words(text)
        return RenderedPrompt(tuple(range(len(words))), text, tuple(words))

    async def detokenize(self, token_ids: tuple[int, ...]) -> str:
        return "".join(f" t{token_id}" for token_id in token_ids)


def expected_text(prompt: str, length: int) -> str:
    """What a FakeBackend replies to a text prompt."""
    return "".join(itertools.islice(itertools.cycle(_words(prompt)), length))


def _words(text: str) -> list[str]:
    parts = text.split(" ")
    return [part if i == 0 else " " + part for i, part in enumerate(parts)]


def _rendered(prompt: ChatPrompt) -> str:
    return " ".join(f"{message.get('role')}: {message.get('content')}" for message in prompt.messages)


def _tokens(script: Script, request: GenerationRequest, text: str) -> list[object]:
    length = request.params.max_tokens
    words = script.texts
    if words is None:
        words = list(itertools.islice(itertools.cycle(_words(text)), DEFAULT_LENGTH if length is None else length))
    return [*(("reasoning", piece) for piece in script.reasoning), *words, *script.tool_calls]


def _batches(tokens: list[object], size: int) -> list[list[object]]:
    return [tokens[i : i + size] for i in range(0, len(tokens), size)] or [[]]


def _joined(whole: ChoiceDelta, delta: ChoiceDelta) -> ChoiceDelta:
    return ChoiceDelta(
        index=whole.index,
        content=whole.content + delta.content,
        reasoning=whole.reasoning + delta.reasoning,
        tool_calls=whole.tool_calls + delta.tool_calls,
        token_ids=whole.token_ids + delta.token_ids,
        logprobs=whole.logprobs
        + tuple(
            msgspec.structs.replace(position, text_offset=len(whole.content) + position.text_offset)
            for position in delta.logprobs
        ),
        finish_reason=delta.finish_reason,
        stop_reason=delta.stop_reason,
    )


def _joined_all(index: int, deltas: list[ChoiceDelta], last: bool, generation: FakeGeneration) -> ChoiceDelta:
    joined = deltas[0] if deltas else ChoiceDelta(index)
    for delta in deltas[1:]:
        joined = _joined(joined, delta)
    if not last:
        return joined
    reason = "tool_calls" if generation._backend.script.tool_calls else "length"
    return msgspec.structs.replace(joined, finish_reason=reason)


def _logprob(token: str, position: int, k: int | None) -> PositionLogprobs:
    chosen = Logprob(token, token.encode(), position, -0.5, 1)
    top = tuple(
        Logprob(f"{token}{i}" if i else token, token.encode(), position + i, -0.5 - i, i + 1) for i in range(k or 0)
    )
    return PositionLogprobs(chosen, top)
