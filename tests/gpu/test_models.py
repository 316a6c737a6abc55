"""Whole models on the GPU: bf16 log-probabilities against transformers', float32 tokens equal to the CPU runner's."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.errors import ConfigurationError
from engine.request import EngineRequest, RequestOutput
from engine.runner.batch import ModelRunner
from engine.runner.factory import build_runner
from engine.sampling_params import SamplingParams
from tests.support.stepping import build_cpu_runner, silent
from tests.support.tiny_checkpoints import make_uneven

VOCAB = 2048
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 6,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.06,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
MODELS: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    "qwen2-group7-d64": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {"hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 1536},
    ),
    "qwen2-group5-d128": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {"hidden_size": 640, "num_attention_heads": 5, "num_key_value_heads": 1, "intermediate_size": 1024},
    ),
    "qwen2-mha-d128": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {"hidden_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 1024},
    ),
    "qwen3-group4-tied": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {
            "hidden_size": 512,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "intermediate_size": 1536,
            "tie_word_embeddings": True,
        },
    ),
}


def build(name: str, folder: Path) -> None:
    """A float32 checkpoint."""
    config_class, model_class, fields = MODELS[name]
    torch.manual_seed(5)
    config = config_class(**COMMON, **fields)
    model = model_class(config).float().eval()
    make_uneven(model, 0.3)
    model.save_pretrained(folder)


def gpu_runner(folder: Path, **settings: object) -> ModelRunner:
    fields = {"device": "cuda", "max_model_len": 1024, "max_num_seqs": 16, "num_blocks": 200, **settings}
    runner, _ = build_runner(EngineConfig(str(folder), **fields), silent)  # type: ignore[arg-type]
    return runner


def generate(runner: ModelRunner, folder: Path, requests: list[EngineRequest]) -> dict[str, list[RequestOutput]]:
    """Half of the requests come when the others are in decode, so that steps are mixed."""
    core = EngineCore(EngineConfig(str(folder), max_num_seqs=16, max_num_batched_tokens=512), runner)
    outputs: dict[str, list[RequestOutput]] = {request.request_id: [] for request in requests}
    late = requests[len(requests) // 2 :]
    for request in requests[: len(requests) // 2]:
        core.add_request(request)
    for number in range(2000):
        if number == 5:
            for request in late:
                core.add_request(request)
        if number > 5 and not core.has_work():
            return outputs
        for output in core.step():
            outputs[output.request_id].append(output)
    raise AssertionError("the engine does not come to an end")


def prompt(length: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def tokens(outputs: list[RequestOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def logprobs(outputs: list[RequestOutput]) -> torch.Tensor:
    """Of every prompt token but the first, then of every generated one."""
    prompts = [entry.logprob for entry in outputs[0].prompt_logprobs if entry is not None]
    return torch.tensor([*prompts, *(entry.logprob for output in outputs for entry in output.logprobs)])


def reference_logprobs(folder: Path, dtype: torch.dtype, sequences: list[list[int]]) -> list[torch.Tensor]:
    """Of every token but the first, by transformers in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").to("cuda")
    found = []
    with torch.inference_mode():
        for sequence in sequences:
            ids = torch.tensor([sequence], device=model.device)
            logprobs = model(ids).logits[0, :-1].float().log_softmax(-1)
            found.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].cpu())
    return found


def spread(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())


@pytest.fixture(scope="module", params=sorted(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    build(request.param, path)
    return path


@functools.cache
def cpu_tokens(folder: Path) -> dict[str, list[int]]:
    settings = {"max_model_len": 1024, "max_num_seqs": 16, "attention_backend": "cpu", "num_blocks": 60}
    runner = build_cpu_runner(folder, num_threads=4, **settings)
    return {name: tokens(found) for name, found in generate(runner, folder, MANY).items()}


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("backend", ["triton", "fa3", "flash-attn"])
def test_bf16_logprobs_are_as_near_to_float32_as_those_of_transformers(
    folder: Path, backend: str, eager: bool
) -> None:
    try:
        runner = gpu_runner(folder, dtype="bfloat16", attention_backend=backend, enforce_eager=eager)
    except ConfigurationError as error:
        pytest.skip(str(error))
    sampling = SamplingParams(temperature=0.0, max_tokens=24, logprobs=0, prompt_logprobs=0)
    lengths = [1, 7, 64, 65, 129, 300, 511, 700]
    requests = [EngineRequest(f"r{n}", prompt(length, n), sampling=sampling) for n, length in enumerate(lengths)]
    outputs = generate(runner, folder, requests)
    sequences = [[*request.prompt_token_ids, *tokens(outputs[request.request_id])] for request in requests]
    truth, rounded = (reference_logprobs(folder, dtype, sequences) for dtype in (torch.float32, torch.bfloat16))
    for request, exact, theirs in zip(requests, truth, rounded, strict=True):
        ours = logprobs(outputs[request.request_id])
        assert len(ours) == len(exact)
        assert spread(ours - exact) < 1.5 * spread(theirs - exact) + 2e-2, request.request_id
        assert float((ours - exact).abs().max()) < 2.5 * float((theirs - exact).abs().max()) + 0.1


MANY = [
    EngineRequest("greedy", prompt(5, 0), SamplingParams(temperature=0.0, max_tokens=40)),
    EngineRequest("long", prompt(400, 1), SamplingParams(temperature=0.0, max_tokens=30)),
    EngineRequest("seeded", prompt(40, 2), SamplingParams(temperature=0.8, seed=7, max_tokens=40)),
    EngineRequest("wide", prompt(33, 3), SamplingParams(temperature=1.5, seed=2**63 + 1, max_tokens=30)),
    EngineRequest("top", prompt(65, 4), SamplingParams(seed=3, top_k=20, top_p=0.9, max_tokens=30)),
    EngineRequest("min-p", prompt(20, 5), SamplingParams(seed=11, min_p=0.1, max_tokens=30)),
    EngineRequest("bias", prompt(9, 6), SamplingParams(temperature=0.0, max_tokens=10, logit_bias={17: 100.0})),
    EngineRequest("penalties", prompt(64, 7), SamplingParams(seed=5, presence_penalty=1.0, max_tokens=30)),
    EngineRequest("repeats", prompt(128, 8), SamplingParams(temperature=0.0, repetition_penalty=1.3, max_tokens=30)),
    EngineRequest("allowed", prompt(3, 9), SamplingParams(seed=9, allowed_token_ids=(5, 6, 7), max_tokens=12)),
]


@pytest.mark.parametrize("eager", [True, False])
def test_float32_tokens_equal_the_cpu_runners(folder: Path, eager: bool) -> None:
    """Greedy, seeded, filtered and penalised rows, alone in a step or mixed, as graphs and kernel by kernel."""
    runner = gpu_runner(folder, dtype="float32", attention_backend="triton", enforce_eager=eager)
    found = generate(runner, folder, MANY)
    assert {name: tokens(outputs) for name, outputs in found.items()} == cpu_tokens(folder)
