"""The CUDA runner, kernels and all, against the CPU runner: same requests, same tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from engine.attention.triton_paged import TritonAttention
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.memory.kv_layout import KvLayout
from engine.models.config import load_model_config
from engine.models.rope import rope_tables
from engine.models.weights import load_weights
from engine.request import EngineRequest, GrammarSpec, RequestOutput
from engine.runner import cuda_runner as runner_module
from engine.runner import shared_prefix
from engine.runner.batch import ModelRunner
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_products import Products
from engine.runner.cuda_runner import CudaRunner, RunnerLimits
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling.row_grammars import RowGrammars
from engine.sampling_params import SamplingParams
from tests.support.odd_grammar import OddThenEven
from tests.support.stepping import build_cpu_runner
from tests.support.tiny_checkpoints import build_checkpoint

pytestmark = [] if torch.cuda.is_available() else [pytest.mark.slow]  # minutes in the interpreter
MAX_LEN = 256
LIMITS = RunnerLimits(max_num_seqs=6, max_num_batched_tokens=48, max_model_len=MAX_LEN, sampled_vocab=512)


def cuda_runner(folder: Path, device: torch.device) -> CudaRunner:
    model = load_model_config(folder)
    weights = load_weights(folder, model, device, torch.float32)
    layout = KvLayout(model.num_layers, model.num_kv_heads, model.head_dim, 32, torch.float32)
    attention = TritonAttention(model.num_heads, model.num_kv_heads, model.head_dim)
    products = Products()
    cache = layout.allocate(40, device)
    forward = CudaForward(model, weights, attention, cache, rope_tables(model, MAX_LEN, device), products)
    return CudaRunner(forward, LIMITS, DeferredCompiler(str(folder)), eager=True)


def generate(runner: ModelRunner, folder: Path, requests: list[EngineRequest]) -> dict[str, list[RequestOutput]]:
    """Half of the requests come when the others are in decode, so that steps are mixed."""
    config = EngineConfig(str(folder), max_num_seqs=6, max_num_batched_tokens=48)
    core = EngineCore(config, runner)
    outputs: dict[str, list[RequestOutput]] = {request.request_id: [] for request in requests}
    late = requests[len(requests) // 2 :]
    for request in requests[: len(requests) // 2]:
        core.add_request(request)
    steps = 0
    while core.has_work() or late:
        if steps == 4:
            for request in late:
                core.add_request(request)
            late = []
        for output in core.step():
            outputs[output.request_id].append(output)
        steps += 1
        assert steps < 500
    return outputs


def tokens(outputs: list[RequestOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def prompt(length: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 512, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def request(number: int, length: int, sampling: SamplingParams) -> EngineRequest:
    return EngineRequest(f"r{number}", prompt(length, number), sampling=sampling)


class Direct:
    """Stands for captured graphs: runs the padded step itself."""

    def __init__(self, step: Callable[[Any], torch.Tensor]) -> None:
        self.run = self.step = step

    def ready(self, key: object) -> bool:
        return True


def padded_runner(folder: Path, device: torch.device) -> CudaRunner:
    """Pads steps as for graphs."""
    runner = cuda_runner(folder, device)
    runner._eager = False
    steps = runner._steps
    runner._sampling_graphs = Direct(steps.decode_and_sample)  # type: ignore[assignment]
    runner._logits_graphs = Direct(steps.decode_logits)  # type: ignore[assignment]
    runner._shared_sampling_graphs = Direct(  # type: ignore[assignment]
        functools.partial(steps.decode_and_sample, shared=True)
    )
    runner._shared_logits_graphs = Direct(  # type: ignore[assignment]
        functools.partial(steps.decode_logits, shared=True)
    )
    runner._mixed_graphs = Direct(steps.mixed_logits)  # type: ignore[assignment]
    return runner


MANY = [
    request(0, 5, SamplingParams(temperature=0.0, max_tokens=12)),
    request(1, 40, SamplingParams(temperature=0.8, seed=7, max_tokens=9)),
    request(2, 33, SamplingParams(temperature=1.0, seed=2**63 + 1, top_k=20, top_p=0.9, max_tokens=8)),
    request(3, 70, SamplingParams(temperature=0.0, max_tokens=8, logprobs=3, prompt_logprobs=1)),
    request(4, 3, SamplingParams(temperature=0.9, seed=3, max_tokens=10, presence_penalty=1.5, min_tokens=4)),
    request(5, 9, SamplingParams(temperature=0.0, max_tokens=6, logit_bias={17: 100.0}, logprobs=0)),
    request(6, 20, SamplingParams(temperature=1.0, seed=11, max_tokens=6, min_p=0.2)),
]
FEW = [
    request(0, 4, SamplingParams(temperature=0.0, max_tokens=6, logprobs=2, prompt_logprobs=1)),
    request(1, 3, SamplingParams(temperature=1.0, seed=2**63 + 1, top_p=0.9, max_tokens=3)),
]
PADDED_FEW = [
    request(0, 4, SamplingParams(temperature=0.0, max_tokens=6)),
    request(1, 3, SamplingParams(temperature=0.7, seed=2**63 + 1, max_tokens=3, top_k=20, repetition_penalty=1.3)),
]
"""The interpreter takes seconds a step."""


@pytest.mark.parametrize(
    ("variant", "padded"), [("qwen3", True), pytest.param("qwen2-group7", False, marks=pytest.mark.slow)]
)
def test_greedy_seeded_and_special_rows_equal_the_cpu_runner(
    variant: str, padded: bool, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "CHUNK_ROWS", 2)
    monkeypatch.setattr(runner_module, "CHUNK_TOKENS", [6, 12, 48])
    build_checkpoint(variant, tmp_path)
    requests = MANY if device.type == "cuda" else PADDED_FEW if padded else FEW
    cpu = generate(build_cpu_runner(tmp_path, num_blocks=60), tmp_path, requests)
    make = padded_runner if padded else cuda_runner
    gpu = generate(make(tmp_path, device), tmp_path, requests)
    for name, expected in cpu.items():
        assert tokens(gpu[name]) == tokens(expected), name
        entries = [e for output in gpu[name] for e in output.logprobs]
        reference = [e for output in expected for e in output.logprobs]
        assert [e.rank for e in entries] == [e.rank for e in reference]
        assert [e.logprob for e in entries] == pytest.approx([e.logprob for e in reference], abs=2e-3)
        first, reference_first = gpu[name][0].prompt_logprobs, expected[0].prompt_logprobs
        assert len(first) == len(reference_first)
        assert [e.logprob for e in first if e] == pytest.approx([e.logprob for e in reference_first if e], abs=2e-3)


def test_rows_that_need_the_last_token_are_sampled_behind_it(tmp_path: Path, device: torch.device) -> None:
    """Beside one that does not, in steps that are launched ahead."""
    build_checkpoint("qwen3", tmp_path)
    sampling = SamplingParams(temperature=1.0, seed=4, max_tokens=5)
    held = EngineRequest("held", prompt(4, 1), sampling, grammar=GrammarSpec("regex", "x"))
    cpu, cuda = build_cpu_runner(tmp_path, num_blocks=60), cuda_runner(tmp_path, device)
    cpu._grammars, cuda._special._grammars = RowGrammars(OddThenEven(512)), RowGrammars(OddThenEven(512))
    requests = [held, request(1, 3, SamplingParams(temperature=0.0, max_tokens=4))]
    expected, found = generate(cpu, tmp_path, requests), generate(cuda, tmp_path, requests)
    assert [token % 2 for token in tokens(found["held"])] == [1, 0, 1, 0, 1]
    assert {name: tokens(out) for name, out in found.items()} == {name: tokens(out) for name, out in expected.items()}


@pytest.mark.parametrize("padded", [True, False])
def test_rows_that_share_a_prefix_equal_the_cpu_runner(
    padded: bool, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In plain and in mixed steps. Once a request with another prompt has come, nothing is shared any more."""
    for name, value in (("MIN_ROWS", 2), ("MIN_TOKENS", 32), ("MIN_TOKENS_SAVED", 1)):
        monkeypatch.setattr(shared_prefix, name, value)
    monkeypatch.setattr(runner_module, "CHUNK_ROWS", 2)
    monkeypatch.setattr(runner_module, "CHUNK_TOKENS", [6, 12, 48])
    build_checkpoint("qwen3", tmp_path)
    greedy = SamplingParams(temperature=0.0, max_tokens=7)
    common = prompt(33, 1)
    shares = [EngineRequest(f"r{n}", (*common, 40 + n), sampling=greedy) for n in range(2)]
    requests = [*shares, EngineRequest("r2", (*common, 50), sampling=greedy), request(3, 3, greedy)]
    runner = (padded_runner if padded else cuda_runner)(tmp_path, device)
    seen = watch_shared_lengths(runner, monkeypatch)
    found = generate(runner, tmp_path, requests)
    expected = generate(build_cpu_runner(tmp_path, num_blocks=60), tmp_path, requests)
    assert {name: tokens(out) for name, out in found.items()} == {n: tokens(out) for n, out in expected.items()}
    assert 32 in seen
    assert None in seen[seen.index(32) :]


def watch_shared_lengths(runner: CudaRunner, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What each call of the decode attention was told of shared keys; None: the plain kernel alone."""
    attention, seen = cast(TritonAttention, runner._forward.attention), list[int | None]()
    decode_rows = attention.decode_rows

    def watched(*args: Any) -> None:
        shared_len = args[3].shared_len
        seen.append(None if shared_len is None else int(shared_len))
        decode_rows(*args)

    monkeypatch.setattr(attention, "decode_rows", watched)
    return seen


def test_an_unknown_id_fails_its_own_request(tmp_path: Path, device: torch.device) -> None:
    build_checkpoint("qwen3", tmp_path)
    good = request(0, 3, SamplingParams(temperature=0.0, max_tokens=1))
    bad = EngineRequest("bad", (5, 600, 7), sampling=SamplingParams(temperature=0.0, max_tokens=4))
    outputs = generate(cuda_runner(tmp_path, device), tmp_path, [good, bad])
    assert len(tokens(outputs["r0"])) == 1
    assert outputs["bad"][-1].finish_reason == "error"
