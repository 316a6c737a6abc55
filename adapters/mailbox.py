"""Where a request's tokens wait for its consumer.

The engine's step message appends ids and wakes the consumer at most once; the consumer turns all that is there into
one delta a choice. Nothing is decoded before somebody reads it, and nothing is decoded twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from adapters.backend import ChoiceDelta, ChoiceTimes, PositionLogprobs, Usage
from adapters.backend_options import BackendLimits
from adapters.logprobs import prompt_logprobs
from adapters.output_assembler import OutputAssembler, OutputPlan
from engine.errors import EngineError, RequestFailedError
from engine.request import EngineRequest, FinishReason, RequestOutput, RequestTimes, TokenLogprobs


@dataclass(eq=False, slots=True)
class Choice:
    """One sequence of a request: what was asked of the engine, and what has come of it."""

    request: EngineRequest
    generation: EngineGeneration
    assembler: OutputAssembler
    stop_watch: OutputAssembler | None
    """Without a stream nobody decodes before the end; this one looks for stop strings meanwhile."""
    token_ids: list[int]
    """All output tokens so far; a new engine gets them when the old one dies."""
    logprobs: list[TokenLogprobs]
    num_taken: int = 0
    """Output tokens that the assembler has had."""
    started: bool = False
    """It has been in a forward pass (of any engine): it waits no longer."""
    progressed: bool = False
    """A token has come from the present engine."""
    reason: FinishReason | None = None
    stop_token_id: int | None = None
    num_kept: int = 0
    """Output tokens up to the stop string that ended it."""
    times: RequestTimes | None = None
    """Of its first token, from whichever engine that came."""
    ended_s: float = 0.0

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def resumed(self) -> EngineRequest:
        """The request as a new engine gets it: go on after the tokens that are there."""
        request, sampling = self.request, self.request.sampling
        if sampling.prompt_logprobs is not None and self.generation.has_prompt_logprobs:
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)
        return msgspec.structs.replace(request, sampling=sampling, resumed_token_ids=tuple(self.token_ids))


class EngineGeneration:
    """n choices over one prompt; implements adapters.backend.Generation. Lives in one event loop."""

    def __init__(
        self,
        request_id: str,
        plan: OutputPlan,
        requests: Sequence[EngineRequest],
        prompt_text: str,
        *,
        stream: bool,
        limits: BackendLimits,
        release: Callable[[Sequence[Choice], FinishReason], None],
        prompt_param: str = "prompt",
    ) -> None:
        """`prompt_param`: the request's field that holds the prompt, for errors that are the engine's to find.

        `release(choices, reason)` is called for choices that this side ends while the engine works on them.
        """
        self.request_id = request_id
        self.prompt_token_ids = requests[0].prompt_token_ids
        self.prompt_text = prompt_text
        self.prompt_param = prompt_param
        watch = (
            replace(plan, logprobs=False, thinking=None, new_tool_parser=None) if plan.stop and not stream else None
        )
        self.choices = tuple(
            Choice(r, self, OutputAssembler(i, plan), OutputAssembler(i, watch) if watch else None, [], [])
            for i, r in enumerate(requests)
        )
        self._plan = plan
        self._stream = stream
        self._limits = limits
        self._release = release
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._dirty: dict[Choice, None] = {}
        self._num_open = len(requests)
        self._waiter: asyncio.Future[None] | None = None
        self._error: EngineError | None = None
        self._unread = 0
        self._last_read_s = time.monotonic()
        self._cached_tokens = 0
        self._raw_prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
        self._prompt_logprobs: tuple[PositionLogprobs | None, ...] | None = None

    # ---- the engine's side

    def push(self, choice: Choice, output: RequestOutput) -> None:
        """New tokens of one choice. The caller drops outputs of choices that have ended."""
        if output.token_ids:
            choice.token_ids += output.token_ids
            if output.logprobs:
                choice.logprobs += output.logprobs
            self._unread += len(output.token_ids)
        if output.times is not None and choice.times is None:
            choice.times = output.times
        if output.cached_tokens and len(choice.token_ids) <= 1:
            self._cached_tokens = max(self._cached_tokens, output.cached_tokens)
        if output.prompt_logprobs:
            self._raw_prompt_logprobs = output.prompt_logprobs
        if output.finish_reason is not None:
            self._close(choice, output.finish_reason, output.stop_token_id)
        if self._stream:
            self._dirty[choice] = None
            self._wake()
            if self._unread > self._limits.max_unread_tokens:
                self._check_reader()
        elif choice.stop_watch is not None and choice.reason is None:
            choice.stop_watch.feed(output.token_ids)
            if choice.stop_watch.stopped:
                self._end_early(choice)

    def fail(self, error: EngineError) -> None:
        """Ends every open choice; the consumer gets what is there, then the error."""
        if self._num_open == 0 or self._error is not None:
            return
        self._error = error
        self._drop_open("error")

    # ---- the consumer's side

    def __aiter__(self) -> AsyncIterator[tuple[ChoiceDelta, ...]]:
        return self

    async def __anext__(self) -> tuple[ChoiceDelta, ...]:
        while True:
            if self._dirty and (self._stream or self._num_open == 0):
                if deltas := self._take():
                    return deltas
            elif self._error is not None:
                raise self._error
            elif self._num_open == 0:
                raise StopAsyncIteration
            else:
                self._waiter = self._loop.create_future()
                await self._waiter

    def cancel(self) -> None:
        """Ends what is still open, at once and for good."""
        if self._num_open:
            self._drop_open("abort")
        self._dirty.clear()

    @property
    def usage(self) -> Usage:
        by_choice = tuple([choice.assembler.completion_tokens for choice in self.choices])
        return Usage(
            prompt_tokens=len(self.prompt_token_ids),
            completion_tokens=sum(by_choice),
            cached_tokens=self._cached_tokens,
            reasoning_tokens=sum([choice.assembler.reasoning_tokens for choice in self.choices]),
            completion_tokens_by_choice=by_choice,
        )

    @property
    def has_prompt_logprobs(self) -> bool:
        return bool(self._raw_prompt_logprobs)

    @property
    def prompt_logprobs(self) -> tuple[PositionLogprobs | None, ...]:
        if self._prompt_logprobs is None:
            raw = self._raw_prompt_logprobs
            if not raw:
                return ()
            self._prompt_logprobs = prompt_logprobs(self._plan.tokenizer, self.prompt_token_ids, raw)
        return self._prompt_logprobs

    # ---- time

    @property
    def times(self) -> tuple[ChoiceTimes | None, ...]:
        return tuple([_times_of(choice) for choice in self.choices])

    def fail_after(self, delay_s: float, make_error: Callable[[], EngineError | None]) -> None:
        """After `delay_s` the request fails with the error that `make_error` then returns, if it returns one."""

        def expire() -> None:
            if self._num_open and (error := make_error()) is not None:
                self.fail(error)

        self._timers.append(self._loop.call_later(delay_s, expire))

    # ---- inside

    def _take(self) -> tuple[ChoiceDelta, ...]:
        self._unread, self._last_read_s = 0, time.monotonic()
        dirty, self._dirty = self._dirty, {}
        return tuple([delta for choice in dirty if (delta := self._delta(choice)) is not None])

    def _delta(self, choice: Choice) -> ChoiceDelta | None:
        """All that is new of one choice."""
        new_ids = choice.token_ids[choice.num_taken :]
        choice.num_taken += len(new_ids)
        logprobs = choice.logprobs
        if logprobs:
            choice.logprobs = []
        assembler = choice.assembler
        if choice.reason not in (None, "error"):
            return assembler.finish(choice.reason, choice.stop_token_id, new_ids, logprobs)
        delta = assembler.feed(new_ids, logprobs)
        if not assembler.stopped or choice.reason == "error":
            return delta
        self._end_early(choice)
        last = assembler.finish("stop")
        return last if delta is None else _joined(delta, last)

    def _end_early(self, choice: Choice) -> None:
        """A stop string is complete: the engine need not go on."""
        choice.num_kept = (choice.stop_watch or choice.assembler).completion_tokens
        self._close(choice, "stop", None)
        self._release((choice,), "stop")

    def _close(self, choice: Choice, reason: FinishReason, stop_token_id: int | None) -> None:
        choice.reason, choice.stop_token_id = reason, stop_token_id
        choice.ended_s = time.monotonic()
        self._num_open -= 1
        if not self._stream:
            self._dirty[choice] = None
        if self._num_open == 0:
            self._stop_timers()
            self._wake()

    def _drop_open(self, reason: FinishReason) -> None:
        dropped = [choice for choice in self.choices if choice.reason is None]
        for choice in dropped:
            choice.reason = reason
            choice.ended_s = time.monotonic()
        self._num_open = 0
        if not self._stream:
            self._dirty.clear()
        self._stop_timers()
        self._release(dropped, reason)
        self._wake()

    def _check_reader(self) -> None:
        if time.monotonic() - self._last_read_s > self._limits.max_unread_s:
            self.fail(RequestFailedError("The client did not read its stream; the request was cancelled."))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()


def _times_of(choice: Choice) -> ChoiceTimes | None:
    times = choice.times
    if times is None or not choice.token_ids:
        return None
    return ChoiceTimes(choice.request.arrival_s, times.scheduled_s, times.first_token_s, choice.ended_s)


def _joined(first: ChoiceDelta, last: ChoiceDelta) -> ChoiceDelta:
    return msgspec.structs.replace(
        last,
        content=first.content + last.content,
        reasoning=first.reasoning + last.reasoning,
        tool_calls=first.tool_calls + last.tool_calls,
        token_ids=first.token_ids + last.token_ids,
        logprobs=first.logprobs + last.logprobs,
    )
