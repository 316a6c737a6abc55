"""The engine's loop: schedule, launch, collect, emit. No tensors, no processes, no clock of its own."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from engine.config import CPU_BATCHED_TOKENS, CUDA_BATCHED_TOKENS, EngineConfig
from engine.errors import EngineDeadError, RequestError
from engine.memory.sequence_memory import SequenceMemory
from engine.request import EngineRequest, EngineStats, RequestOutput
from engine.runner.batch import ModelRunner, PendingStep, StepBatch
from engine.scheduling.intake import finished_before_start, make_sequence
from engine.scheduling.policies import make_policy
from engine.scheduling.policy import SchedulingPolicy
from engine.scheduling.queue_watch import oldest_of
from engine.scheduling.results import ResultCollector
from engine.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

STEP_FAILED = "The engine failed on a batch that held this request; the request may be sent again."
RATE_SAMPLE_S = 0.5
RATE_SAMPLES = 10

Launched = tuple[StepBatch, PendingStep]


class EngineCore:
    """Requests in, tokens out, one `step` at a time. Not thread-safe: one loop owns it."""

    def __init__(
        self,
        config: EngineConfig,
        runner: ModelRunner,
        policy: SchedulingPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runner = runner
        self.memory = SequenceMemory(
            runner.num_blocks,
            runner.block_size,
            config.enable_prefix_caching and not config.long_context_extrapolation,
        )
        default = CUDA_BATCHED_TOKENS if runner.pipelined else CPU_BATCHED_TOKENS
        budget = config.max_num_batched_tokens or default
        policy = policy or make_policy(config.policy)
        self.scheduler = Scheduler(self.memory, policy, config.max_num_seqs, budget, clock, runner.step_sizes)
        self.results = ResultCollector(self.scheduler)
        self._clock = clock
        self._pending: Launched | None = None
        self._early: list[RequestOutput] = []
        self._num_requests = 0
        self._num_aborted = 0
        self._num_steps = 0
        self._rate = deque([(clock(), 0)], maxlen=RATE_SAMPLES)

    def add_request(self, request: EngineRequest, prepared: object = None) -> None:
        """Queue a request, with what `prepare` has made for it if it was asked.

        Raises RequestError if it can never be served or its id is live already.
        """
        if request.request_id in self.scheduler.live:
            raise RequestError(f"Request {request.request_id} is running already.", "request_id")
        self._num_requests += 1
        sequence = make_sequence(request, self._num_requests, self.runner.max_model_len, self.memory.capacity_tokens)
        sequence.prepared = prepared
        reason = finished_before_start(sequence)
        if reason is None:
            self.scheduler.add(sequence)
        else:
            stop_id = sequence.token_ids[-1] if reason == "stop" else None
            self._early.append(RequestOutput(request.request_id, (), reason, stop_id))
            self.results.finished += 1

    def cancel(self, request_id: str, length: int | None = None) -> None:
        """Free everything now, say nothing. Unknown ids are ignored.

        The client has gone; or, with a `length`, a stop string ended the request after so many output tokens, of
        which the policy learns.
        """
        sequence = self.scheduler.live.get(request_id)
        if sequence is None:
            self._early = [output for output in self._early if output.request_id != request_id]
            return
        sequence.finish_reason = "abort" if length is None else "stop"
        self.scheduler.remove(sequence)
        if length is None:
            self._num_aborted += 1
        else:
            self.results.stopped(sequence, length)
        self._forget_released()

    def has_work(self) -> bool:
        return bool(self.scheduler.live or self._pending or self._early)

    def step(self) -> list[RequestOutput]:
        """Schedule and launch one step; collect the one before it, or this one when the runner is not pipelined.

        A step that fails costs the requests in it, never the loop. Raises EngineDeadError when the runner says
        that its device is gone.
        """
        outputs, self._early = self._early, []
        if self._pending and self.scheduler.held_back:
            outputs += self._collect()
        batch = self.scheduler.schedule(results_outstanding=self._pending is not None)
        self._forget_released()
        launched = self._launch(batch, outputs) if batch.rows else None
        if self._pending:
            outputs += self._collect()
        self._pending = launched
        if launched:
            outputs += self._finish_launch() if self.runner.pipelined else self._collect()
        if not self.scheduler.live and not self._pending and self.memory.pool.used:
            logger.error("idle, yet %d KV blocks are in use", self.memory.pool.used)
        self._sample_rate()
        return outputs

    def prepare(self, request: EngineRequest) -> Future[Any] | None:
        """Begin what the request's first step would have to wait for. The result is for `add_request`; None: there is
        nothing to wait for."""
        return self.runner.prepare(request)

    def settle(self) -> None:
        """Nobody has asked for anything for seconds."""
        self.runner.settle()

    def prepare_more(self) -> bool:
        """Let an idle runner prepare for later steps; False when it has nothing to prepare."""
        return self.runner.prepare_more()

    def stats(self) -> EngineStats:
        """A snapshot; cheap enough for every heartbeat."""
        pool, results = self.memory.pool, self.results
        running, waiting = self.scheduler.running, self.scheduler.waiting
        oldest = oldest_of(waiting) if waiting else None
        empty = sum(len(s.block_table) * self.memory.block_size - s.num_tokens for s in running if s.block_table)
        (then, tokens), now = self._rate[0], self._clock()
        return EngineStats(
            num_running=len(running),
            num_waiting=len(waiting),
            kv_blocks_total=pool.num_usable,
            kv_blocks_used=pool.used,
            kv_blocks_cached=pool.idle,
            kv_fragmentation=max(0, empty) / (pool.used * self.memory.block_size) if pool.used else 0.0,
            block_size=self.memory.block_size,
            prefix_queries_tokens=self.memory.queried_tokens,
            prefix_hits_tokens=self.memory.hit_tokens,
            blocks_reused=self.memory.blocks_reused,
            preemptions=self.scheduler.num_preemptions,
            prompt_tokens=results.prompt_tokens,
            generated_tokens=results.generated_tokens,
            requests_finished=results.finished,
            requests_aborted=self._num_aborted,
            steps=self._num_steps,
            tokens_per_s=(results.generated_tokens - tokens) / (now - then) if now > then else 0.0,
            policy=self.scheduler.policy.name,
            oldest_wait_s=max(0.0, now - oldest.request.arrival_s) if oldest else 0.0,
            oldest_bypassed=self.scheduler.queue_watch.bypassed(oldest) if oldest else 0,
        )

    def reset_prefix_cache(self) -> None:
        """Nothing computed so far is shared with later requests; running ones keep what they have."""
        self.memory.reset_prefix_cache()

    def _launch(self, batch: StepBatch, outputs: list[RequestOutput]) -> Launched | None:
        self._num_steps += 1
        try:
            pending = self.runner.launch(batch)
        except EngineDeadError:
            raise
        except Exception:
            logger.exception("launching a step of %d rows failed", len(batch.rows))
            outputs += self.results.fail_batch(batch, STEP_FAILED)
            self._forget_released()
            return None
        self.scheduler.launched(batch)
        return batch, pending

    def _finish_launch(self) -> list[RequestOutput]:
        """The step before has been collected: whatever of the launched one had to wait for that follows."""
        assert self._pending is not None
        batch, pending = self._pending
        try:
            pending.finish_launch()
        except EngineDeadError:
            raise
        except Exception:
            logger.exception("sampling a step of %d rows failed", len(batch.rows))
            self._pending = None
            outputs = self.results.fail_batch(batch, STEP_FAILED)
            self._forget_released()
            return outputs
        return []

    def _collect(self) -> list[RequestOutput]:
        assert self._pending is not None
        (batch, pending), self._pending = self._pending, None
        try:
            result = pending.result()
            if len(result.sampled) != len(batch.rows):
                raise RuntimeError(f"{len(result.sampled)} results for {len(batch.rows)} rows")
        except EngineDeadError:
            raise
        except Exception:
            logger.exception("a step of %d rows failed", len(batch.rows))
            outputs = self.results.fail_batch(batch, STEP_FAILED)
        else:
            outputs = self.results.collect(batch, result)
        self._forget_released()
        return outputs

    def _forget_released(self) -> None:
        for slot in self.scheduler.take_released_slots():
            self.runner.forget(slot)

    def _sample_rate(self) -> None:
        now = self._clock()
        if now - self._rate[-1][0] >= RATE_SAMPLE_S:
            self._rate.append((now, self.results.generated_tokens))
