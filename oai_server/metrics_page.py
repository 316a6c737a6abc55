"""`/metrics`: Prometheus text under vLLM's names, so that its dashboards work as they are; ours begin `oai_server:`.

All labels come from the server (model name, finish reasons, route templates), never from requests.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from adapters.backend import Health
from engine.request import EngineStats
from oai_server.telemetry import Histogram, Telemetry

CONTENT_TYPE = b"text/plain; version=1.0.0; charset=utf-8"
LABELS = ("model_name", "engine")

HISTOGRAMS = (
    ("vllm:time_to_first_token_seconds", "time_to_first_token", "Time to first token."),
    ("vllm:inter_token_latency_seconds", "inter_token_latency", "Time between tokens; of whole answers their mean."),
    ("vllm:request_time_per_output_token_seconds", "time_per_output_token", "Mean time per output token."),
    ("vllm:e2e_request_latency_seconds", "e2e_request_latency", "Whole request."),
    ("vllm:request_queue_time_seconds", "queue_time", "Arrival to first scheduling of a sequence."),
    ("vllm:request_prefill_time_seconds", "prefill_time", "First scheduling to first token."),
    ("vllm:request_decode_time_seconds", "decode_time", "First to last token."),
    ("vllm:request_inference_time_seconds", "inference_time", "First scheduling to last token."),
    ("vllm:request_prompt_tokens", "prompt_tokens", "Prompt tokens of a request."),
    ("vllm:request_generation_tokens", "generation_tokens", "Generated tokens of a request."),
    ("vllm:request_max_num_generation_tokens", "longest_choice", "Generated tokens of a request's longest choice."),
    ("vllm:request_params_n", "params_n", "n of a request."),
    ("vllm:request_params_max_tokens", "params_max_tokens", "max_tokens of a request."),
)
GAUGES = (
    ("vllm:num_requests_running", "num_running", "Sequences running."),
    ("vllm:num_requests_waiting", "num_waiting", "Sequences waiting."),
    ("oai_server:kv_blocks_total", "kv_blocks_total", "KV blocks there are."),
    ("oai_server:kv_blocks_used", "kv_blocks_used", "KV blocks held by live requests."),
    ("oai_server:kv_blocks_cached", "kv_blocks_cached", "Unreferenced KV blocks kept for their content."),
    ("oai_server:kv_fragmentation", "kv_fragmentation", "Share of slots in used blocks without a token."),
    ("oai_server:oldest_waiting_seconds", "oldest_wait_s", "How long the oldest waiting sequence has waited."),
    ("oai_server:oldest_waiting_bypassed", "oldest_bypassed", "Younger sequences admitted before it."),
    ("oai_server:tokens_per_second", "tokens_per_s", "Generated tokens a second, last few seconds."),
)
COUNTERS = (
    ("vllm:prefix_cache_queries", "prefix_queries_tokens", "Prompt tokens looked up in the prefix cache."),
    ("vllm:prefix_cache_hits", "prefix_hits_tokens", "Prompt tokens found in the prefix cache."),
    ("vllm:num_preemptions", "preemptions", "Sequences preempted."),
    ("vllm:prompt_tokens", "prompt_tokens", "Prompt tokens processed."),
    ("vllm:prompt_tokens_cached", "prefix_hits_tokens", "Prompt tokens taken from the prefix cache."),
    ("vllm:generation_tokens", "generated_tokens", "Tokens generated."),
    ("oai_server:blocks_reused", "blocks_reused", "KV blocks taken from the prefix cache."),
    ("oai_server:requests_aborted", "requests_aborted", "Sequences cancelled."),
    ("oai_server:engine_steps", "steps", "Engine steps."),
)


class MetricsPage(Collector):
    """One scrape: the HTTP side's numbers (of all workers) and the engine's."""

    def __init__(self, model: str, telemetry: Telemetry, stats: EngineStats, health: Health) -> None:
        self._labels = (model, "0")
        self._telemetry = telemetry
        self._stats = stats
        self._health = health

    def render(self) -> bytes:
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._engine()
        yield from self._http()

    def _engine(self) -> Iterator[Metric]:
        stats = self._stats
        for name, attribute, text in GAUGES:
            yield self._single(GaugeMetricFamily, name, text, getattr(stats, attribute))
        for name, attribute, text in COUNTERS:
            yield self._single(CounterMetricFamily, name, text, getattr(stats, attribute))
        usage = stats.kv_blocks_used / max(1, stats.kv_blocks_total)
        yield self._single(GaugeMetricFamily, "vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0..1.", usage)
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "KV cache.", labels=("block_size", "num_gpu_blocks", "engine")
        )
        info.add_metric((str(stats.block_size), str(stats.kv_blocks_total), "0"), 1.0)
        yield info
        ready = self._health.state == "ready"
        yield self._single(GaugeMetricFamily, "oai_server:engine_up", "1 while an engine is ready.", ready)

    def _http(self) -> Iterator[Metric]:
        telemetry = self._telemetry
        for name, attribute, text in HISTOGRAMS:
            yield self._family(name, text, getattr(telemetry, attribute))
        yield self._policy_wait()
        success = CounterMetricFamily(
            "vllm:request_success", "Choices by finish reason.", labels=(*LABELS, "finished_reason")
        )
        for reason in sorted({"stop", "length", "tool_calls", "abort", "error"} | set(telemetry.finished)):
            success.add_metric((*self._labels, reason), float(telemetry.finished.get(reason, 0)))
        yield success
        yield self._single(CounterMetricFamily, "vllm:admission_rejections", "Requests refused.", telemetry.rejected)
        requests = CounterMetricFamily("http_requests", "HTTP requests.", labels=("method", "handler", "status"))
        for key, count in sorted(telemetry.http_requests.items()):
            requests.add_metric(key.split(" "), float(count))
        yield requests

    def _single(
        self, kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, text: str, value: float
    ) -> Metric:
        family = kind(name, text, labels=LABELS)
        family.add_metric(self._labels, float(value))
        return family

    def _policy_wait(self) -> Metric:
        """The queue times once more, in finer buckets and by the policy that orders the queue."""
        labels = ((*LABELS, "policy"), (*self._labels, self._stats.policy or "unknown"))
        return self._family(
            "oai_server:queue_wait_seconds", "Time in the queue.", self._telemetry.queue_wait, *labels
        )

    def _family(
        self,
        name: str,
        text: str,
        histogram: Histogram,
        labels: tuple[str, ...] = LABELS,
        values: tuple[str, ...] | None = None,
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=labels)
        buckets, total = [], 0
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(values or self._labels, buckets, sum_value=histogram.sum)
        return family
