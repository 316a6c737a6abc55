"""What one finished call adds to the histograms of the engine's times, streamed or not."""

from __future__ import annotations

import time
from collections.abc import Sequence

from adapters.backend import Generation
from oai_server.telemetry import Telemetry


def observe_times(telemetry: Telemetry, generations: Sequence[Generation], age_s: float, *, streamed: bool) -> None:
    """Queue, prefill, decode and inference time of every choice that had a token.

    Streams have told the times of their tokens as their clients saw them. For whole answers the engine's count: time
    to first token since the request came in, `age_s` ago, and the mean time between tokens.
    """
    began_s = time.monotonic() - age_s
    first_s: float | None = None
    for generation in generations:
        counts = generation.usage.completion_tokens_by_choice
        for times, num_tokens in zip(generation.times, counts, strict=False):
            if times is None:
                continue
            decode_s = max(0.0, times.last_token_s - times.first_token_s)
            queue_s = max(0.0, times.scheduled_s - times.arrival_s)
            telemetry.queue_time.observe(queue_s)
            telemetry.queue_wait.observe(queue_s)
            telemetry.prefill_time.observe(max(0.0, times.first_token_s - times.scheduled_s))
            telemetry.decode_time.observe(decode_s)
            telemetry.inference_time.observe(max(0.0, times.last_token_s - times.scheduled_s))
            first_s = times.first_token_s if first_s is None else min(first_s, times.first_token_s)
            if not streamed and num_tokens > 1:
                interval_s = decode_s / (num_tokens - 1)
                telemetry.inter_token_latency.observe(interval_s, num_tokens - 1)
                telemetry.time_per_output_token.observe(interval_s)
    if not streamed and first_s is not None:
        telemetry.time_to_first_token.observe(max(0.0, first_s - began_s))
