"""What the HTTP process counts, as plain numbers that several workers can add up.

A histogram observation is a bisection and two additions, because it is made for every chunk of every stream;
`oai_server.metrics_page` turns the numbers into Prometheus text, with vLLM's metric names.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Self

import msgspec

SECONDS_SHORT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
SECONDS_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
SECONDS_LONG = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKENS = tuple(float(base * 10**power) for power in range(6) for base in (1, 2, 5))
CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0)


class Histogram(msgspec.Struct):
    """Counts of observations at or below each bound; the last count is for those above all."""

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> Self:
        return cls(bounds, [0] * (len(bounds) + 1))

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def add(self, other: Histogram) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


def _histogram(bounds: tuple[float, ...]) -> Histogram:
    field: Histogram = msgspec.field(default_factory=lambda: Histogram.of(bounds))
    return field


class Telemetry(msgspec.Struct):
    """The numbers of one HTTP process. Times in seconds, lengths in tokens."""

    time_to_first_token: Histogram = _histogram(SECONDS_SHORT)
    inter_token_latency: Histogram = _histogram(SECONDS_TOKEN)
    time_per_output_token: Histogram = _histogram(SECONDS_TOKEN)
    e2e_request_latency: Histogram = _histogram(SECONDS_LONG)
    queue_time: Histogram = _histogram(SECONDS_LONG)
    queue_wait: Histogram = _histogram(SECONDS_SHORT)
    """The same times in finer buckets."""
    prefill_time: Histogram = _histogram(SECONDS_LONG)
    decode_time: Histogram = _histogram(SECONDS_LONG)
    inference_time: Histogram = _histogram(SECONDS_LONG)
    prompt_tokens: Histogram = _histogram(TOKENS)
    generation_tokens: Histogram = _histogram(TOKENS)
    longest_choice: Histogram = _histogram(TOKENS)
    params_n: Histogram = _histogram(CHOICES)
    params_max_tokens: Histogram = _histogram(TOKENS)
    finished: dict[str, int] = {}
    """Choices by finish_reason; "abort" counts requests whose clients left, "error" those that failed."""
    rejected: int = 0
    """Requests refused because the queue was full or no engine was up."""
    http_requests: dict[str, int] = {}
    """By "method handler status", where handler is the route's template."""

    def count_finished(self, reason: str) -> None:
        self.finished[reason] = self.finished.get(reason, 0) + 1

    def count_http(self, method: str, handler: str, status: int) -> None:
        key = f"{method} {handler} {status}"
        self.http_requests[key] = self.http_requests.get(key, 0) + 1

    def add(self, other: Telemetry) -> None:
        """Add another worker's numbers to these."""
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Histogram):
                mine.add(theirs)
            elif isinstance(mine, dict):
                for key, count in theirs.items():
                    mine[key] = mine.get(key, 0) + count
            else:
                setattr(self, name, mine + theirs)
