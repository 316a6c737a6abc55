"""One API call in work: its generations (one a prompt), their output, and what is counted of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence

import msgspec

from adapters.backend import ChoiceDelta, Generation, GenerationRequest, Usage
from oai_server.record import RequestRecord
from oai_server.request_times import observe_times
from oai_server.services import Services

Deltas = tuple[ChoiceDelta, ...]


async def admit(services: Services, record: RequestRecord, requests: Sequence[GenerationRequest]) -> Call:
    """Hand all prompts of a call to the backend: all are admitted or none.

    Raises ApiError (429 for this key) and what `Backend.generate` raises.
    """
    services.limiter.acquire(record.key)
    call = Call(services, record, requests)
    try:
        for request in requests:
            call.generations.append(await services.backend.generate(request))
    except BaseException:
        call.close()
        raise
    return call


class Call:
    """Owned by one request. `close` must be called, whatever happens; it cancels what still runs."""

    __slots__ = (
        *("_closed", "_finished", "_first_s", "_intervals", "_max_tokens"),
        *("choices_per_prompt", "failed", "generations", "last_s", "num_choices", "record", "services"),
    )

    def __init__(self, services: Services, record: RequestRecord, requests: Sequence[GenerationRequest]) -> None:
        self.services = services
        self.record = record
        self.generations: list[Generation] = []
        self.choices_per_prompt = requests[0].params.n
        self.num_choices = self.choices_per_prompt * len(requests)
        self._max_tokens = requests[0].params.max_tokens
        self._finished = 0
        self._first_s = 0.0
        self.last_s = 0.0
        """When the latest output came, on the clock of time.perf_counter(); 0 before the first."""
        self.failed = False
        """Whether it ends by an error, and not because somebody left."""
        self._closed = False
        self._intervals = services.telemetry.inter_token_latency

    # ---- output

    async def whole(self) -> list[ChoiceDelta]:
        """Every choice whole, in order of index. For requests with stream=False."""
        deltas: list[ChoiceDelta] = []
        try:
            for number, generation in enumerate(self.generations):
                async for batch in generation:
                    deltas += self._reindexed(number, batch)
        except Exception:
            self.failed = True
            raise
        self._count_finished(deltas)
        return sorted(deltas, key=lambda delta: delta.index)

    def source(self) -> AsyncIterable[Sequence[ChoiceDelta]]:
        """What is new, each time the consumer comes; ends after the last choice. For each: `count_output`."""
        return self.generations[0] if len(self.generations) == 1 else self._merged()

    @property
    def finished(self) -> bool:
        """Whether every choice has had its finish_reason."""
        return self._finished >= self.num_choices

    def usage(self) -> Usage:
        """Summed over the prompts."""
        usages = [generation.usage for generation in self.generations]
        if len(usages) == 1:
            return usages[0]
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            cached_tokens=sum(usage.cached_tokens for usage in usages),
            reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
            completion_tokens_by_choice=tuple(n for usage in usages for n in usage.completion_tokens_by_choice),
        )

    def _reindexed(self, number: int, deltas: Deltas) -> Deltas:
        if number == 0:
            return deltas
        first = number * self.choices_per_prompt
        return tuple(msgspec.structs.replace(delta, index=first + delta.index) for delta in deltas)

    async def _merged(self) -> AsyncIterator[Sequence[ChoiceDelta]]:
        """Several generations as one: each has a task that drops what it gets into a common box."""
        box: list[ChoiceDelta] = []
        wake = asyncio.Event()

        async def pump(number: int, generation: Generation) -> None:
            try:
                async for deltas in generation:
                    box.extend(self._reindexed(number, deltas))
                    wake.set()
            finally:
                wake.set()

        tasks = [asyncio.create_task(pump(*numbered)) for numbered in enumerate(self.generations)]
        try:
            while True:
                running = any(not task.done() for task in tasks)
                wake.clear()
                for task in tasks:
                    if task.done():
                        task.result()
                taken, box[:] = box[:], []
                if taken:
                    yield taken
                elif not running:
                    return
                else:
                    await wake.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ---- numbers

    def count_output(self, deltas: Sequence[ChoiceDelta]) -> bool:
        """Times and finish reasons of what the consumer just took. Returns whether every choice has ended."""
        now = time.perf_counter()
        if self.last_s == 0.0:
            self._first_s = now
            self.record.first_token_s = now - self.record.started_s
            self.services.telemetry.time_to_first_token.observe(self.record.first_token_s)
        else:
            count = len(deltas[0].token_ids) or 1
            self._intervals.observe((now - self.last_s) / count, count)
        self.last_s = now
        for delta in deltas:
            if delta.finish_reason is not None:
                self._count_finished((delta,))
        return self.finished

    def _count_finished(self, deltas: Sequence[ChoiceDelta]) -> None:
        for delta in deltas:
            self._finished += 1
            reason = delta.finish_reason or "stop"
            self.services.telemetry.count_finished(reason)
            self.record.finish = self.record.finish or reason

    def close(self) -> None:
        """Cancel what still runs and count what there was. Synchronous and idempotent."""
        if self._closed:
            return
        self._closed = True
        for generation in self.generations:
            generation.cancel()
        self.services.limiter.release(self.record.key)
        if len(self.generations) * self.choices_per_prompt == self.num_choices:
            self._count()

    def _count(self) -> None:
        telemetry = self.services.telemetry
        usage = self.usage()
        self.record.usage = usage
        if not self.finished:
            reason = "error" if self.failed else "abort"
            telemetry.count_finished(reason)
            self.record.finish = self.record.finish or reason
        telemetry.e2e_request_latency.observe(self.record.seconds())
        telemetry.prompt_tokens.observe(usage.prompt_tokens)
        telemetry.generation_tokens.observe(usage.completion_tokens)
        telemetry.longest_choice.observe(max(usage.completion_tokens_by_choice, default=usage.completion_tokens))
        telemetry.params_n.observe(self.choices_per_prompt)
        if self._max_tokens is not None:
            telemetry.params_max_tokens.observe(self._max_tokens)
        streamed = self.last_s > 0.0
        observe_times(telemetry, self.generations, self.record.seconds(), streamed=streamed)
        if self.last_s > self._first_s:
            decode_s = self.last_s - self._first_s
            num_later = max(1, usage.completion_tokens - self.num_choices)  # tokens that were not a choice's first
            telemetry.time_per_output_token.observe(decode_s * self.num_choices / num_later)
