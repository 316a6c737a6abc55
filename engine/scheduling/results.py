"""What a step's results change: tokens are appended, blocks published, finished sequences leave, outputs are made."""

from __future__ import annotations

from engine.request import FinishReason, Phase, RequestFault, RequestOutput, RequestTimes, Sequence, TokenLogprobs
from engine.runner.batch import SampledToken, ScheduledRow, StepBatch, StepResult
from engine.scheduling.intake import fault_of_row, finish_reason
from engine.scheduling.scheduler import Scheduler


class ResultCollector:
    """Applies the results of launched steps in the order of their launches. Counters only grow."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.finished = 0

    def collect(self, batch: StepBatch, result: StepResult) -> list[RequestOutput]:
        """Outputs of every row that sampled; rows whose sequence has gone in the meantime are dropped."""
        outputs: list[RequestOutput] = []
        block_size = self._scheduler.memory.block_size
        for row, sampled in zip(batch.rows, result.sampled, strict=True):
            sequence = row.sequence
            if sequence.phase is not Phase.RUNNING:
                continue
            if result.failed and sequence.request_id in result.failed:
                reason = result.failed[sequence.request_id]
                outputs.append(self.fail(sequence, reason, fault_of_row(sequence.request, reason)))
                continue
            end = row.start + row.count
            if end // block_size > sequence.num_published:
                self._scheduler.memory.publish(sequence, end)
            if result.prompt_logprobs:
                self._take_prompt_logprobs(row, result)
            if sampled is None:
                if row.samples:
                    outputs.append(self.fail(sequence, "The model gave no token for this request."))
                continue
            sequence.num_in_flight -= 1
            token_ids, token_id = sequence.token_ids, sampled.token_id
            if (
                sequence.started
                and sampled.logprobs is None
                and token_id not in sequence.stop_ids
                and len(token_ids) + 1 < sequence.max_length
            ):  # nearly every row of nearly every step; `_sampled` would say the same
                token_ids.append(token_id)
                self.generated_tokens += 1
                outputs.append(RequestOutput(sequence.request.request_id, (token_id,)))
            else:
                outputs.append(self._sampled(sequence, sampled))
        return outputs

    def fail_batch(self, batch: StepBatch, message: str) -> list[RequestOutput]:
        """The whole step is lost: every request in it ends with an error."""
        return [self.fail(row.sequence, message) for row in batch.rows if row.sequence.phase is Phase.RUNNING]

    def fail(self, sequence: Sequence, message: str, fault: RequestFault | None = None) -> RequestOutput:
        self._end(sequence, "error")
        return RequestOutput(sequence.request_id, (), "error", error=message, fault=fault)

    def stopped(self, sequence: Sequence, length: int) -> None:
        """A sequence that has just left because of a stop string; what the engine ran on beyond it does not count."""
        del sequence.token_ids[sequence.num_prompt + length :]
        sequence.num_in_flight = 0
        self.finished += 1
        self._scheduler.policy.finished(sequence)

    def _sampled(self, sequence: Sequence, sampled: SampledToken) -> RequestOutput:
        request = sequence.request
        if len(sequence.token_ids) >= sequence.max_length:  # only prompt logprobs were asked for
            self._end(sequence, "length")
            return self._first_output(sequence, (), "length", None, ())
        token_id = sampled.token_id
        sequence.token_ids.append(token_id)
        self.generated_tokens += 1
        reason: FinishReason | None = None
        stop_id: int | None = None
        if token_id in sequence.stop_ids or len(sequence.token_ids) >= sequence.max_length:
            reason = finish_reason(sequence)
            stop_id = token_id if reason == "stop" else None
            if reason is not None:
                self._end(sequence, reason)
        logprobs = () if sampled.logprobs is None else (sampled.logprobs,)
        if not sequence.started:
            return self._first_output(sequence, (token_id,), reason, stop_id, logprobs)
        return RequestOutput(request.request_id, (token_id,), reason, stop_id, logprobs)

    def _first_output(
        self,
        sequence: Sequence,
        token_ids: tuple[int, ...],
        reason: FinishReason | None,
        stop_id: int | None,
        logprobs: tuple[TokenLogprobs, ...],
    ) -> RequestOutput:
        sequence.started = True
        self.prompt_tokens += sequence.num_prompt
        prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
        if sequence.request.sampling.prompt_logprobs is not None:
            prompt_logprobs = (None, *sequence.prompt_logprobs[: sequence.num_prompt - 1])
        return RequestOutput(
            sequence.request_id,
            token_ids,
            reason,
            stop_id,
            logprobs,
            prompt_logprobs,
            sequence.num_cached,
            times=RequestTimes(sequence.scheduled_s, self._scheduler.clock()),
        )

    def _take_prompt_logprobs(self, row: ScheduledRow, result: StepResult) -> None:
        entries = result.prompt_logprobs.get(row.sequence.request_id)
        if entries and not row.sequence.started:
            row.sequence.prompt_logprobs.extend(entries)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        self.finished += 1
        if reason != "error":
            self._scheduler.policy.finished(sequence)
        self._scheduler.remove(sequence)
