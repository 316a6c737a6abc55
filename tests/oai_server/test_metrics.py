"""/metrics under vLLM's names, and adding up several processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.errors import EngineDeadError
from oai_server.app import make_services
from oai_server.errors import ApiError, ClientGoneError, shutting_down
from oai_server.settings import Settings
from oai_server.shared_metrics import SharedMetrics
from oai_server.telemetry import Histogram, Telemetry
from tests.support.fake_backend import FakeBackend, Script
from tests.support.live_server import LiveServer
from tests.support.patience import wait_for

VLLM_NAMES = (
    *(
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
    ),
    *(
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:num_preemptions_total",
    ),
    *(
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
    ),
    *(
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_bucket",
    ),
    *(
        "vllm:request_time_per_output_token_seconds_bucket",
        "vllm:e2e_request_latency_seconds_bucket",
    ),
    *(
        "vllm:request_decode_time_seconds_bucket",
        "vllm:request_queue_time_seconds_bucket",
        "vllm:request_prefill_time_seconds_bucket",
        "vllm:request_inference_time_seconds_bucket",
        "vllm:request_prompt_tokens_bucket",
    ),
    *(
        "vllm:request_generation_tokens_bucket",
        "vllm:request_max_num_generation_tokens_bucket",
        "vllm:prompt_tokens_cached_total",
        "vllm:request_params_n_bucket",
    ),
    *(
        "vllm:request_params_max_tokens_bucket",
        "vllm:admission_rejections_total",
        "vllm:cache_config_info",
    ),
    *("http_requests_total",),
)

PAGE_NAMES = (
    *(
        "oai_server:kv_blocks_total",
        "oai_server:kv_blocks_used",
        "oai_server:kv_blocks_cached",
    ),
    *(
        "oai_server:kv_fragmentation",
        "oai_server:blocks_reused_total",
        "oai_server:tokens_per_second",
        "oai_server:oldest_waiting_seconds",
        "oai_server:oldest_waiting_bypassed",
        "oai_server:queue_wait_seconds_bucket",
    ),
)


def scrape(server: LiveServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    reply = server.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def total(server: LiveServer, name: str, **labels: str) -> float:
    return sum(
        value
        for (found, found_labels), value in scrape(server).items()
        if found == name and labels.items() <= dict(found_labels).items()
    )


def test_names_and_labels(server: LiveServer) -> None:
    server.get("/version")
    samples = scrape(server)
    names = {name for name, _ in samples}
    assert not set(VLLM_NAMES) - names and not set(PAGE_NAMES) - names
    plain = (("engine", "0"), ("model_name", "fake"))
    for name in ("vllm:num_requests_running", "vllm:request_queue_time_seconds_count"):
        assert (name, plain) in samples
    assert ("oai_server:queue_wait_seconds_count", (*plain, ("policy", "unknown"))) in samples


def test_what_a_request_adds(server: LiveServer) -> None:
    server.backend.script = Script(delay_s=0.002)
    names = ("vllm:time_to_first_token_seconds_count", "vllm:inter_token_latency_seconds_count")
    counted = (*names, "vllm:e2e_request_latency_seconds_count", "vllm:request_generation_tokens_sum")
    before = [total(server, name) for name in counted]
    done = total(server, "vllm:request_success_total", finished_reason="length")
    server.post("/v1/completions", {"prompt": "a b", "max_tokens": 5, "stream": True})
    server.post("/v1/completions", {"prompt": "a b", "max_tokens": 5})
    server.wait_idle()
    assert [total(server, name) - old for name, old in zip(counted, before, strict=True)] == [2, 8, 2, 10]
    assert total(server, "vllm:request_success_total", finished_reason="length") - done == 2


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [EngineDeadError("gone"), RuntimeError("a bug")])
def test_a_failure_of_ours_is_no_abort(server: LiveServer, error: Exception, stream: bool, path: str) -> None:
    server.backend.script = Script(fail_after=2, error=error)
    name, reasons = "vllm:request_success_total", ("error", "abort", "length")
    before = [total(server, name, finished_reason=reason) for reason in reasons]
    asked = {"prompt": "a b"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a b c"}]}
    server.post(path, {"model": "fake", "max_tokens": 5, "stream": stream, **asked})
    server.wait_idle()
    after = [total(server, name, finished_reason=reason) for reason in reasons]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 0, 0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("interruption", "reason"), [(shutting_down(), "error"), (ClientGoneError(), "abort")])
def test_who_is_there_to_be_told_meets_an_error(
    server: LiveServer, interruption: ApiError, reason: str, stream: bool
) -> None:
    server.backend.script = Script(delay_s=60.0)
    name, reasons = "vllm:request_success_total", ("error", "abort")
    before = [total(server, name, finished_reason=each) for each in reasons]

    def interrupt() -> None:
        for running in list(server.services.live):
            running.interrupt(interruption)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(server.post, "/v1/completions", {"prompt": "a b", "max_tokens": 5, "stream": stream})
        wait_for(lambda: bool(server.backend.live), "it runs")
        wait_for(lambda: bool(server.loop.call_soon_threadsafe(interrupt)) or asking.done(), "it is interrupted")
    server.wait_idle()
    after = [total(server, name, finished_reason=each) for each in reasons]
    assert [new - old for new, old in zip(after, before, strict=True)] == [reason == "error", reason == "abort"]


def test_the_longest_choice_is_told_apart_from_all_choices_together(server: LiveServer) -> None:
    names = ("vllm:request_generation_tokens_sum", "vllm:request_max_num_generation_tokens_sum")
    before = [total(server, name) for name in names]
    server.post("/v1/completions", {"prompt": "a b", "max_tokens": 5, "n": 3})
    server.wait_idle()
    assert [total(server, name) - old for name, old in zip(names, before, strict=True)] == [15, 5]


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_s_times_are_told_of_streams_and_whole_answers(server: LiveServer, stream: bool) -> None:
    server.backend.script = Script(delay_s=0.02)
    names = [f"vllm:request_{name}_time_seconds" for name in ("queue", "prefill", "decode", "inference")]
    names += ["vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "oai_server:queue_wait_seconds"]
    names.append("vllm:request_time_per_output_token_seconds")

    def numbers(kind: str) -> dict[str, float]:
        return {name: total(server, f"{name}_{kind}") for name in names}

    counts, sums = numbers("count"), numbers("sum")
    body = {"prompt": "a b", "max_tokens": 5, "n": 2, "stream": stream}
    assert server.post("/v1/completions", body).status_code == 200
    server.wait_idle()
    new = {name: value - counts[name] for name, value in numbers("count").items()}
    ttft, itl, tpot = new.pop(names[4]), new.pop(names[5]), new.pop(names[7])
    assert set(new.values()) == {2}
    assert (ttft, itl, tpot) == ((1, 4, 1) if stream else (1, 8, 2))
    spent = {name: value - sums[name] for name, value in numbers("sum").items()}
    assert 0.02 <= spent[names[4]] < 0.1
    assert 0.02 <= spent[names[7]] / tpot < 0.1
    assert 0.08 <= spent[names[2]] / 2 <= spent[names[3]] / 2 < 0.4


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/completions", {"prompt": "a", "guided_regex": "refused before it is compiled"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
    ],
)
def test_rejections_are_counted_once(server: LiveServer, path: str, body: dict[str, object]) -> None:
    server.backend.script = Script(max_live=0)
    rejected = total(server, "vllm:admission_rejections_total")
    assert server.post(path, body).status_code == 429
    assert total(server, "vllm:admission_rejections_total") == rejected + 1


def test_histograms_add_up() -> None:
    one, two = Histogram.of((1.0, 2.0)), Histogram.of((1.0, 2.0))
    one.observe(1.0)
    one.observe(5.0, times=2)
    two.observe(1.5)
    one.add(two)
    assert (one.counts, one.sum) == ([1, 1, 2], 12.5)


def test_workers_files_add_up_and_outlive_a_worker(tmp_path: Path) -> None:
    def worker(index: int) -> tuple[Telemetry, SharedMetrics]:
        services = make_services(Settings(), FakeBackend())
        shared = SharedMetrics(services, tmp_path, index)
        return services.telemetry, shared

    (first, one), (second, two) = worker(0), worker(1)
    first.count_finished("stop")
    second.count_finished("stop")
    second.count_http("GET", "/health", 200)
    one.publish()
    two.publish()
    assert one.total().finished == two.total().finished == {"stop": 2}
    reborn, _ = worker(1)
    assert reborn.finished == {"stop": 1} and reborn.http_requests == {"GET /health 200": 1}
    (tmp_path / "worker-1").write_bytes(b"broken")
    assert one.total().finished == {"stop": 1}
