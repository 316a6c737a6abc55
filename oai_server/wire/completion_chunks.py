"""Chunks of a /v1/completions stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.backend import ChoiceDelta, Generation, Usage
from oai_server.wire.chunks import ChunkTemplate, json_bytes
from oai_server.wire.logprobs import CompletionLogprobs, completion_logprobs
from oai_server.wire.usage import UsageBody

AFTER_TEXT = ',"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}'


class CompletionChunkOptions(msgspec.Struct, frozen=True):
    choices_per_prompt: int = 1
    echo: bool = False
    continuous_usage: bool = False
    logprobs: bool = False
    token_ids: bool = False
    tokens_as_ids: bool = False


class CompletionChunks:
    """Encodes one completion stream over one or more prompts; choice i belongs to prompt i // choices_per_prompt."""

    def __init__(
        self, template: ChunkTemplate, options: CompletionChunkOptions, generations: Sequence[Generation]
    ) -> None:
        self._template = template
        self._options = options
        self._generations = generations
        self._plain = not (options.token_ids or options.continuous_usage)
        self._around = [
            template.around_text(index, '"text":', AFTER_TEXT)
            for index in range(options.choices_per_prompt * len(generations))
        ]
        self._begun: set[int] = set()
        self._special_first = options.echo or options.token_ids
        self.text_frame = self._around[0] if self._plain and not self._special_first else None

    def first(self) -> bytes:
        return b""

    def delta(self, delta: ChoiceDelta) -> bytes:
        options = self._options
        first = self._special_first and delta.index not in self._begun
        if self._plain and not first and delta.finish_reason is None and not delta.logprobs:
            before, after = self._around[delta.index]
            return before + json_bytes(delta.content) + after
        self._begun.add(delta.index)
        prompt, own_index = self._prompt(delta.index)
        echo = first and options.echo
        choice: dict[str, Any] = {
            "index": delta.index,
            "text": prompt.prompt_text + delta.content if echo else delta.content,
            "logprobs": self._logprobs(delta, prompt, echo) if options.logprobs else None,
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
            "prompt_token_ids": prompt.prompt_token_ids if first and options.token_ids else None,
            "token_ids": delta.token_ids if options.token_ids else None,
        }
        usage = UsageBody.of_choice(prompt.usage, own_index) if options.continuous_usage else None
        return self._template.choice(choice, usage=usage, last=delta.finish_reason is not None)

    def _prompt(self, index: int) -> tuple[Generation, int]:
        """The generation a choice belongs to, and its index there."""
        number, own_index = divmod(index, self._options.choices_per_prompt)
        return self._generations[number], own_index

    def _logprobs(self, delta: ChoiceDelta, prompt: Generation, echo: bool) -> CompletionLogprobs:
        return completion_logprobs(
            delta.logprobs,
            as_ids=self._options.tokens_as_ids,
            prompt=prompt.prompt_logprobs if echo else (),
            prompt_text=prompt.prompt_text if self._options.echo else "",
        )

    def end(self, usage: Usage) -> bytes:
        return self._template.end(usage)
