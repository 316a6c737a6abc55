"""The engine on the GPU with the bundled model: structured output, bad requests, settings that cannot work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.errors import ConfigurationError, RequestError
from engine.request import EngineRequest, GrammarSpec
from engine.runner.cuda_runner import CudaRunner
from engine.runner.factory import build_runner
from engine.sampling_params import SamplingParams
from engine.text.end_tokens import end_token_ids
from engine.text.tokenizer import load_tokenizer
from tests.support.stepping import build_cpu_runner, silent

MODEL = Path(__file__).parents[2] / "oai_server" / "demo_model"
TOKENIZER = load_tokenizer(MODEL)
ENDS = end_token_ids(MODEL, TOKENIZER)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}
GRAMMARS = {
    "choice": GrammarSpec("choice", json.dumps(["blue whale", "red fox", "猫"])),
    "regex": GrammarSpec("regex", "[0-9]{4}-[a-f]{2}"),
    "schema": GrammarSpec("json_schema", json.dumps(SCHEMA)),
    "broken": GrammarSpec("regex", "(("),
}


def cuda_runner(**settings: object) -> CudaRunner:
    fields = {"device": "cuda", "max_model_len": 512, "max_num_seqs": 16, "num_blocks": 100, **settings}
    runner, _ = build_runner(EngineConfig(str(MODEL), **fields), silent)  # type: ignore[arg-type]
    assert isinstance(runner, CudaRunner)
    return runner


def request(name: str, text: str, grammar: GrammarSpec | None = None, **sampling: object) -> EngineRequest:
    fields = {"max_tokens": 60, "temperature": 0.0, "eos_token_ids": ENDS, **sampling}
    ids = tuple(TOKENIZER.encode(text))
    return EngineRequest(name, ids, SamplingParams(**fields), grammar=grammar)  # type: ignore[arg-type]


def run(core: EngineCore, *requests: EngineRequest) -> dict[str, tuple[list[int], str]]:
    """Tokens and error of each request."""
    tokens: dict[str, list[int]] = {one.request_id: [] for one in requests}
    errors = dict.fromkeys(tokens, "")
    for one in requests:
        core.add_request(one)
    while core.has_work():
        for output in core.step():
            tokens[output.request_id] += output.token_ids
            errors[output.request_id] += output.error
    assert core.stats().kv_blocks_used == 0
    return {name: (tokens[name], errors[name]) for name in tokens}


def structured_requests() -> list[EngineRequest]:
    """With and without grammars, greedy and seeded, so that special and plain rows share steps."""
    plain = [request(f"free{n}", f"Tell me about number {n}.", seed=n, temperature=n % 2 * 0.8) for n in range(4)]
    held = [
        request(f"{name}{n}", f"Give me one, the {n}th.", grammar, seed=n, temperature=n * 0.7)
        for name, grammar in GRAMMARS.items()
        for n in range(2)
    ]
    return [*plain, *held]


@pytest.mark.parametrize("eager", [True, False])
def test_structured_output_equals_the_cpus(eager: bool) -> None:
    settings = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": 16}
    config = EngineConfig(str(MODEL), max_num_seqs=16, max_num_batched_tokens=256)
    cpu = build_cpu_runner(MODEL, attention_backend="cpu", num_blocks=60, num_threads=4, **settings)
    expected = run(EngineCore(config, cpu), *structured_requests())
    runner = cuda_runner(dtype="float32", enforce_eager=eager, attention_backend="triton")
    found = run(EngineCore(config, runner), *structured_requests())
    assert found == expected
    for number in range(2):
        assert TOKENIZER.decode(found[f"choice{number}"][0][:-1]) in ("blue whale", "red fox", "猫")
        assert json.loads(TOKENIZER.decode(found[f"schema{number}"][0][:-1])).keys() == {"name", "n"}
        assert found[f"broken{number}"][0] == []
        assert found[f"broken{number}"][1] != ""
    assert runner._special._grammars._places == {}


@pytest.mark.parametrize("eager", [True, False])
def test_qwens_own_sampling_equals_the_cpus(eager: bool) -> None:
    """Filters and penalties as in the checkpoints' generation_config.json; more requests than slots, so that slots
    change hands and prompts are mixed with decode rows."""
    qwen2 = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    qwen3 = {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    others = {"temperature": 1.0, "presence_penalty": 1.0, "frequency_penalty": 0.5, "min_tokens": 20}
    plain = {"temperature": 0.8}
    asked = [
        request(f"{number}", f"Tell me about {number} things.", seed=number, **fields)
        for number, fields in enumerate((qwen2, qwen3, others, plain) * 7)
    ]
    settings = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": 16}
    config = EngineConfig(str(MODEL), max_num_seqs=16, max_num_batched_tokens=256)
    cpu = build_cpu_runner(MODEL, attention_backend="cpu", num_blocks=60, num_threads=4, **settings)
    expected = run(EngineCore(config, cpu), *asked)
    runner = cuda_runner(dtype="float32", enforce_eager=eager, attention_backend="triton")
    runner.warm_up()
    assert run(EngineCore(config, runner), *asked) == expected


@pytest.mark.parametrize("eager", [True, False])
def test_bad_requests_fail_alone(eager: bool) -> None:
    runner = cuda_runner(dtype="float32", enforce_eager=eager)
    core = EngineCore(EngineConfig(str(MODEL), max_num_seqs=16), runner)
    good = [request(f"good{n}", "Hello there, how are you?", seed=n, max_tokens=20) for n in range(3)]
    alone = run(core, *good)
    core.reset_prefix_cache()
    unknown = EngineRequest("unknown", (5, 10**6, 7), SamplingParams(max_tokens=4))
    nothing = request("nothing", "Hi", allowed_token_ids=(9,), logit_bias={9: float("-inf")})
    found = run(core, good[0], unknown, good[1], nothing, good[2])
    assert {name: found[name] for name in alone} == alone
    for name in ("unknown", "nothing"):
        assert found[name][0] == [], name
        assert found[name][1] != "", name
    for name, ids in (("long", (1,) * 2000), ("negative", (5, -3, 7))):
        with pytest.raises(RequestError):
            core.add_request(EngineRequest(name, ids, SamplingParams(max_tokens=4)))


def test_graphs_captured_in_idle_moments_leave_the_prefix_cache_alone() -> None:
    core = EngineCore(EngineConfig(str(MODEL), max_num_seqs=16), cuda_runner(dtype="float32"))
    text = "Count from one to thirty, please. " * 12
    asked = [request(f"{n}", text + str(n), seed=n, max_tokens=40, presence_penalty=n % 2 * 0.5) for n in range(5)]
    first = run(core, *asked)
    captured = 0
    while core.prepare_more():
        captured += 1
    assert captured > 0
    assert run(core, *asked) == first
    assert core.stats().prefix_hits_tokens > 0


def test_outputs_that_are_no_numbers_fail_their_requests_only() -> None:
    runner = cuda_runner(dtype="float32", enforce_eager=True)
    core = EngineCore(EngineConfig(str(MODEL), max_num_seqs=16, enable_prefix_caching=False), runner)
    good = request("good", "Hello there, how are you?", max_tokens=20)
    alone = run(core, good)
    poisoned = next(i for i in range(300, 6000) if i not in good.prompt_token_ids and i not in alone["good"][0])
    weights = runner._forward.weights
    embedding = weights.embedding.clone()
    embedding[poisoned] = float("nan")
    runner._forward.weights = dataclasses.replace(weights, embedding=embedding)
    bad = EngineRequest("bad", (5, poisoned, 7), SamplingParams(max_tokens=5, temperature=0.0))
    found = run(core, good, bad)
    assert found["good"] == alone["good"]
    assert found["bad"][0] == []
    assert "not a number" in found["bad"][1]
    assert run(core, good) == alone, "blocks that held the bad request's keys serve others"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpu_memory_utilization": 0.0001, "num_blocks": None}, "KV cache holds"),
        ({"num_blocks": 2}, "KV cache holds"),
        ({"num_blocks": 40_000_000}, "does not fit into the GPU's memory"),
        ({"attention_backend": "fa4"}, "unknown"),
        ({"attention_backend": "cpu"}, "runs on CPU only"),
        ({"block_size": 17}, "not among"),
        ({"device": "cuda:99"}, "not here"),
    ],
)
def test_settings_that_cannot_work_are_told_before_serving(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        cuda_runner(**settings)
    torch.cuda.empty_cache()


def test_memory_is_sized_from_what_is_free() -> None:
    """Half of the device, less weights and the largest step, and never more than the sequences can use."""
    runner = cuda_runner(num_blocks=None, gpu_memory_utilization=0.5, max_num_seqs=4)
    assert runner.num_blocks == 4 * -(-512 // runner.block_size) + 1
    assert runner._forward.kv_cache.nbytes < 0.5 * torch.cuda.mem_get_info()[1]
