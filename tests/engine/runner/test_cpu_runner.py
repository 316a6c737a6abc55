"""The CPU runner: prompt logprobs, failures of single rows, the same tokens alone and in batches, settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.errors import ConfigurationError
from engine.models.config import load_model_config
from engine.models.weights import weights_nbytes
from engine.request import EngineRequest, Sequence, TokenLogprobs
from engine.runner.batch import ScheduledRow, StepBatch, StepResult
from engine.runner.cpu_runner import CpuRunner
from engine.runner.factory import build_runner, choose_device
from engine.sampling_params import SamplingParams
from tests.support.stepping import Driver, build_cpu_runner, silent
from tests.support.tiny_checkpoints import build_checkpoint, reference_logits

GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    build_checkpoint("qwen3", folder)
    return folder


@pytest.fixture(scope="module")
def runner(folder: Path) -> CpuRunner:
    return build_cpu_runner(folder, num_blocks=400)


def make_sequence(token_ids: list[int], block: int, sampling: SamplingParams = GREEDY, name: str = "a") -> Sequence:
    request = EngineRequest(name, tuple(token_ids), sampling=sampling)
    return Sequence(request, list(token_ids), len(token_ids), block_table=[block, block + 1, block + 2])


def run(runner: CpuRunner, *rows: ScheduledRow) -> StepResult:
    return runner.launch(StepBatch(rows, sum(row.count == 1 for row in rows))).result()


def test_prompt_logprobs_over_chunks(folder: Path, runner: CpuRunner, tmp_path: Path) -> None:
    tokens = torch.randint(0, 512, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    raw = reference_logits(build_checkpoint("qwen3", tmp_path), tokens).log_softmax(1)
    sequence = make_sequence(tokens, 1, SamplingParams(temperature=0.0, prompt_logprobs=2))
    found: list[TokenLogprobs] = []
    for start, count in ((0, 40), (40, 1), (41, 19)):
        result = run(runner, ScheduledRow(sequence, start, count, start + count == 60))
        found += result.prompt_logprobs.get("a", [])
    assert len(found) == 59
    for position, entry in enumerate(found):
        expected = raw[position]
        assert entry.logprob == pytest.approx(expected[tokens[position + 1]].item(), abs=1e-3)
        assert entry.top_ids == tuple(expected.topk(2).indices.tolist())
        assert entry.rank == int((expected > expected[tokens[position + 1]]).sum()) + 1
    sequence.started = True  # preempted after its first output, which had them all
    assert run(runner, ScheduledRow(sequence, 0, 60, True)).prompt_logprobs == {}


@pytest.mark.parametrize("bad", [512, 2**31 - 1, -1])
def test_an_unknown_id_fails_its_own_request(runner: CpuRunner, bad: int) -> None:
    good = make_sequence([5, 6, 7], 1, name="good")
    (alone,) = run(runner, ScheduledRow(good, 0, 3, True)).sampled
    wrong = make_sequence([5, bad, 7], 4, SamplingParams(prompt_logprobs=0), name="wrong")
    result = run(runner, ScheduledRow(good, 0, 3, True), ScheduledRow(wrong, 0, 3, True))
    assert result.sampled == (alone, None)
    assert result.failed == {"wrong": "the prompt holds a token id that the model does not know"}
    assert "wrong" not in result.prompt_logprobs
    edge = make_sequence([5, 6, bad], 4, SamplingParams(prompt_logprobs=0), name="wrong")
    assert set(run(runner, ScheduledRow(edge, 0, 2, False)).failed) == {"wrong"}


def test_nan_fails_its_own_request(folder: Path) -> None:
    runner = build_cpu_runner(folder, num_blocks=400)
    good, wrong = make_sequence([5, 6, 7], 1, name="good"), make_sequence([8, 9, 10], 4, name="wrong")
    rows = ScheduledRow(good, 0, 3, True), ScheduledRow(wrong, 0, 3, True)
    logits = runner._model.logits

    def spoiled(hidden: torch.Tensor) -> torch.Tensor:
        out = logits(hidden)
        out[1, 3] = torch.nan
        return out

    expected = run(runner, *rows).sampled[0]
    runner._model.logits = spoiled  # type: ignore[method-assign]
    result = run(runner, *rows)
    assert result.sampled == (expected, None)
    assert set(result.failed) == {"wrong"}


@pytest.mark.parametrize("backend", ["native", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_seeded_tokens_are_the_same_alone_and_in_a_batch(folder: Path, backend: str, dtype: str) -> None:
    if backend == "cpu" and dtype == "bfloat16":
        pytest.skip("plain torch sums bfloat16 products in an order that depends on the batch")
    driver = Driver(build_cpu_runner(folder, attention_backend=backend, dtype=dtype, num_blocks=400))
    sampling = SamplingParams(temperature=0.8, top_p=0.95, seed=42)
    alone = driver.generate(driver.sequence([11, 12, 13, 14], sampling=sampling), 24)
    row = driver.sequence([11, 12, 13, 14], sampling=sampling)
    others = [driver.sequence(list(range(20, 30 + n)), str(n), SamplingParams(seed=n)) for n in range(5)]
    driver.step((row, 2), *((other, len(other.token_ids)) for other in others[:2]))
    driver.step(*((other, 1) for other in others[:2]), (row, 2))
    for extra in (others[2], others[3], others[4], *[None] * 20):
        work = [(row, 1), *((other, 1) for other in others[:2])]
        driver.step(*work, *([(extra, len(extra.token_ids))] if extra else []))
    assert row.token_ids[4:28] == alone


def test_warm_up_leaves_the_usable_blocks_alone(runner: CpuRunner) -> None:
    runner._kv_cache.zero_()
    runner.warm_up()
    assert not runner._kv_cache[:, :, 1:].any()


def test_info_and_sizes(folder: Path) -> None:
    config = EngineConfig(str(folder), device="cpu", max_num_seqs=2, max_model_len=100, num_threads=1)
    runner, info = build_runner(config, silent)
    assert info.architecture == "Qwen3ForCausalLM"
    assert info.dtype == "float32"
    assert info.max_model_len == runner.max_model_len == 100
    assert info.num_blocks == runner.num_blocks == 2 * -(-100 // info.block_size) + 1
    assert info.kv_cache_bytes == 2 * 4 * info.num_blocks * info.block_size * 2 * 32 * 4
    small = EngineConfig(str(folder), device="cpu", kv_cache_memory_gib=0.002, num_threads=1)
    runner, info = build_runner(small, silent)
    assert info.kv_cache_bytes <= 0.002 * 2**30
    assert runner.max_model_len == (runner.num_blocks - 1) * runner.block_size < 4096
    dummy = EngineConfig(str(folder), device="cpu", load_format="dummy", dtype="bfloat16", num_threads=1)
    runner, info = build_runner(dummy, silent)
    assert info.dtype == "bfloat16"
    runner.warm_up()
    runner.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_path": "/nowhere"}, "is not a folder"),
        ({"max_model_len": 5000}, r"max_model_len must be in \[1, 4096\]"),
        ({"max_model_len": 0}, "max_model_len must be in"),
        ({"long_context_extrapolation": True}, "needs a Qwen 1 checkpoint"),
        ({"device": "tpu"}, "device 'tpu' is"),
        ({"device": "cuda:7"}, "is not here"),
        ({"max_model_len": 4096, "kv_cache_memory_gib": 0.001}, "lower max_model_len to at most"),
        ({"attention_backend": "nonsense"}, "is unknown"),
    ],
)
def test_impossible_settings(folder: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_runner(EngineConfig(**{"model_path": str(folder), "device": "cpu", **settings}), silent)  # type: ignore[arg-type]


def test_auto_device() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_weights_that_do_not_fit_are_refused_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runner.cpu_build.available_bytes", lambda: 100_000)
    with pytest.raises(ConfigurationError, match=r"the weights need 0\.\d GB as float32, but only 0\.0 GB"):
        build_cpu_runner(folder)


def test_weights_that_only_fit_as_bfloat16_are_not_loaded_as_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_checkpoint("qwen2", tmp_path, torch.bfloat16)
    free = weights_nbytes(load_model_config(tmp_path), torch.bfloat16) * 3 // 2
    monkeypatch.setenv("OAI_SERVER_NATIVE", "0")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr("engine.runner.cpu_build.available_bytes", lambda: free)
    with pytest.raises(ConfigurationError, match="GB as float32, but only"):
        build_cpu_runner(tmp_path)


def test_a_cache_that_does_not_fit_is_refused_before_serving(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a KV cache of 1000000000 blocks needs .* GiB of memory are free"):
        build_cpu_runner(folder, num_blocks=1_000_000_000)
    with pytest.raises(ConfigurationError, match="fewer blocks or a lower max_num_seqs"):
        build_cpu_runner(folder, kv_cache_memory_gib=1e6, max_num_seqs=1_000_000_000)


def test_float16_when_asked_for(tmp_path: Path) -> None:
    model = build_checkpoint("qwen2", tmp_path)
    driver = Driver(build_cpu_runner(tmp_path, dtype="float16", num_blocks=300))
    driver.step((driver.sequence([5, 6, 7, 8]), 4))
    expected = reference_logits(model, [5, 6, 7, 8])[-1]
    assert (driver.recorded[0][0] - expected).abs().max() < 0.02 * (expected.max() - expected.min())


def test_float16_checkpoints_run_as_float32(tmp_path: Path) -> None:
    build_checkpoint("qwen2", tmp_path, torch.float16)
    _, info = build_runner(EngineConfig(str(tmp_path), device="cpu", num_blocks=300, num_threads=1), silent)
    assert info.dtype == "float32"
