"""From one choice's tokens to what a client sees: text, reasoning, tool calls, logprobs.

tokens -> detokenizer -> stop strings -> reasoning -> tool calls -> ChoiceDelta. One object a choice; every chunking
of the same tokens gives the same deltas when joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from adapters.backend import ChoiceDelta, PositionLogprobs, ToolCallDelta
from adapters.logprobs import position_logprobs
from adapters.reasoning import ReasoningSplitter, ThinkingState
from adapters.stop_strings import StopStrings
from adapters.tool_calls.base import ToolCallParser
from engine.request import FinishReason, TokenLogprobs
from engine.text.detokenizer import Detokenizer
from engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """How a request's output is shown; shared by its n choices."""

    tokenizer: Tokenizer
    prompt_token_ids: Sequence[int] = ()
    """A character that the prompt's last tokens begin is finished in the output."""
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    min_tokens: int = 0
    """Stop strings that these first tokens complete do not count."""
    skip_special_tokens: bool = True
    end_token_ids: frozenset[int] = frozenset()
    """The request's eos and stop ids; the one that ends the reply is not shown as text."""
    eos_token_ids: frozenset[int] = frozenset()
    """End ids that leave stop_reason null."""
    logprobs: bool = False
    keep_ids: frozenset[int] = frozenset()
    """Tokens that are shown even when special: the tags by which thoughts and calls are told apart."""
    thinking: ThinkingState | None = None
    """How the prompt ended; None: the text is not split."""
    include_reasoning: bool = True
    call_tags: tuple[str, ...] = ()
    """Tags that begin a tool call of the parser below."""
    new_tool_parser: Callable[[], ToolCallParser] | None = None
    parallel_tool_calls: bool = True


class OutputAssembler:
    """One choice. `feed` new tokens, then `finish` once.

    completion_tokens and reasoning_tokens are up to date after each call. Once `stopped` is true a stop string is
    complete: cancel the engine's request and call `finish("stop")`; tokens fed after it are ignored.
    """

    def __init__(self, index: int, plan: OutputPlan) -> None:
        self.index = index
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self._plan = plan
        self._detokenizer = Detokenizer(
            plan.tokenizer,
            skip_special_tokens=plan.skip_special_tokens,
            keep_ids=plan.keep_ids,
            prompt_token_ids=plan.prompt_token_ids,
        )
        self._stops = StopStrings(plan.stop, include_in_output=plan.include_stop_str_in_output) if plan.stop else None
        self._splitter = ReasoningSplitter(plan.thinking, call_tags=plan.call_tags) if plan.thinking else None
        self._parser = plan.new_tool_parser() if plan.new_tool_parser else None
        self._plain = not (plan.stop or plan.logprobs or self._splitter or self._parser)
        self._text_length = 0
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._ids: list[int] = []
        self._logprobs: list[PositionLogprobs] = []

    @property
    def stopped(self) -> bool:
        return self._stops is not None and self._stops.matched is not None

    def feed(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> ChoiceDelta | None:
        """What these tokens make visible; None when nothing is (their ids and logprobs come with the next delta)."""
        if self._plain and token_ids and not self._ids:
            self.completion_tokens += len(token_ids)
            if text := self._text_of(token_ids):
                return ChoiceDelta(self.index, text, "", (), tuple(token_ids))
            self._ids.extend(token_ids)
            return None
        self._take(token_ids, logprobs)
        if not (self._content or self._reasoning or self._calls):
            return None
        return self._flush()

    def finish(
        self,
        reason: FinishReason,
        stop_token_id: int | None = None,
        token_ids: Sequence[int] = (),
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> ChoiceDelta:
        """The last delta, with what was held back. `token_ids` are the last tokens, as for `feed`.

        `reason` is the engine's; a stop string that is complete, or a tool call, has the last word.
        """
        self._take(token_ids, logprobs)
        if self.stopped:
            reason, stop_token_id = "stop", None
        if self._stops is not None:
            self._show(self._stops.finish())
        if self._splitter is not None:
            reasoning, content = self._splitter.finish()
            self._reason(reasoning)
            self._say(content)
        if self._parser is not None:
            text, calls = self._parser.finish(complete=reason == "stop")
            self._add(text, calls)
        stop_reason: int | str | None = self._stops.matched if self._stops is not None else None
        if stop_reason is None and stop_token_id not in self._plan.eos_token_ids:
            stop_reason = stop_token_id
        if reason == "length":
            return self._flush("length")
        called = self._parser is not None and self._parser.num_calls > 0
        return self._flush("tool_calls" if called else "stop", stop_reason)

    def _take(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        if not token_ids or self.stopped:
            return
        if not self._plain:
            stops = self._stops
            for i, token_id in enumerate(token_ids):
                self._take_one(token_id, logprobs[i] if logprobs else None)
                if stops is not None and stops.matched is not None:
                    break
            return
        self.completion_tokens += len(token_ids)
        self._ids.extend(token_ids)
        if text := self._text_of(token_ids):
            self._content.append(text)

    def _text_of(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, but not of the one that ends the reply (the engine ends with it, so it is the last)."""
        if token_ids[-1] in self._plan.end_token_ids and not self._plan.include_stop_str_in_output:
            token_ids = token_ids[:-1]
        return self._detokenizer.feed(token_ids)

    def _take_one(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        plan, splitter = self._plan, self._splitter
        self.completion_tokens += 1
        position = None
        if plan.logprobs and logprobs is not None:
            position = position_logprobs(plan.tokenizer, token_id, logprobs, text_offset=self._text_length)
        was_thinking = splitter is not None and splitter.in_reasoning
        if plan.include_stop_str_in_output or token_id not in plan.end_token_ids:
            text = self._detokenizer.feed_one(token_id)
            self._text_length += len(text)
            if self._stops is not None:
                text = self._stops.feed(text, armed=self.completion_tokens > plan.min_tokens)
            self._show(text)
        thinking = splitter is not None and splitter.in_reasoning
        self.reasoning_tokens += was_thinking and thinking
        if plan.include_reasoning or not (was_thinking or thinking):
            self._ids.append(token_id)
            if position is not None:
                self._logprobs.append(position)

    def _show(self, text: str) -> None:
        """Text past the stop strings."""
        if not text:
            return
        if self._splitter is not None:
            reasoning, text = self._splitter.feed(text)
            self._reason(reasoning)
        self._say(text)

    def _reason(self, text: str) -> None:
        if text and self._plan.include_reasoning:
            self._reasoning.append(text)

    def _say(self, text: str) -> None:
        """Text past the thoughts."""
        if not text:
            return
        if self._parser is None:
            self._content.append(text)
        else:
            self._add(*self._parser.feed(text))

    def _add(self, text: str, calls: list[ToolCallDelta]) -> None:
        if text:
            self._content.append(text)
        for call in calls:
            if self._plan.parallel_tool_calls or call.index == 0:
                self._calls.append(call)

    def _flush(
        self,
        finish_reason: Literal["stop", "length", "tool_calls"] | None = None,
        stop_reason: int | str | None = None,
    ) -> ChoiceDelta:
        delta = ChoiceDelta(
            index=self.index,
            content="".join(self._content),
            reasoning="".join(self._reasoning),
            tool_calls=_joined(self._calls) if self._calls else (),
            token_ids=tuple(self._ids),
            logprobs=tuple(self._logprobs),
            finish_reason=finish_reason,
            stop_reason=stop_reason,
        )
        for part in (self._content, self._reasoning, self._calls, self._ids, self._logprobs):
            if part:
                part.clear()
        return delta


def _joined(calls: list[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """Neighbouring pieces of one call as one."""
    joined: list[ToolCallDelta] = []
    for call in calls:
        last = joined[-1] if joined else None
        if last is not None and call.id is None and call.index == last.index:
            joined[-1] = ToolCallDelta(last.index, last.id, last.name, last.arguments + call.arguments)
        else:
            joined.append(call)
    return tuple(joined)
