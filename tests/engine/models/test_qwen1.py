"""Qwen 1 against values from its official code: logn attention and dynamic NTK, first-release field names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import ConfigurationError
from engine.models.config import load_model_config
from engine.models.rope import ntk_alpha
from engine.sampling_params import SamplingParams
from tests.support.qwen_data import qwen_data
from tests.support.stepping import Driver, build_cpu_runner

BACKENDS = ("native", "cpu", "reference")
FIRST_RELEASE_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "ffn_hidden_size",
    "max_position_embeddings": "n_positions",
    "vocab_size": "padded_vocab_size",
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return qwen_data() / "golden" / "tiny_qwen1"


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "expected.json").read_text())["cases"]
    return found


def driver_of(folder: Path, backend: str, **settings: object) -> Driver:
    return Driver(build_cpu_runner(folder, attention_backend=backend, num_blocks=64, block_size=16, **settings))


@pytest.mark.parametrize("backend", BACKENDS)
def test_extrapolated_logits_and_greedy_tokens(folder: Path, cases: list[dict[str, Any]], backend: str) -> None:
    driver = driver_of(folder, backend, long_context_extrapolation=True)
    for case in cases:
        assert ntk_alpha(case["len"], 16) == case["ntk_alpha_at_prefill"]
        sequence = driver.sequence(case["prompt"], sampling=SamplingParams(temperature=0.0, logprobs=0))
        driver.recorded.clear()
        tokens = driver.generate(sequence, 24)
        first = driver.recorded[0][0]
        torch.testing.assert_close(first[:8], torch.tensor(case["last_logits_first8"]), atol=2e-3, rtol=1e-4)
        assert tokens == case["greedy_24_tokens"]
        logprobs = [
            logits[0].log_softmax(0)[token].item() for logits, token in zip(driver.recorded, tokens, strict=True)
        ]
        assert logprobs == pytest.approx(case["greedy_24_logprobs"], abs=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_different_alpha_share_a_step(folder: Path, cases: list[dict[str, Any]], backend: str) -> None:
    driver = driver_of(folder, backend, long_context_extrapolation=True)
    sequences = [driver.sequence(case["prompt"], str(case["len"])) for case in cases[::3]]
    driver.step(*((s, len(s.token_ids)) for s in sequences))
    for _ in range(5):
        driver.step(*((s, 1) for s in sequences))
    for sequence, case in zip(sequences, cases[::3], strict=True):
        assert sequence.token_ids[case["len"] :] == case["greedy_24_tokens"][:6]


def test_without_extrapolation_the_limit_is_seq_length(folder: Path, cases: list[dict[str, Any]]) -> None:
    driver = driver_of(folder, "reference")
    assert driver.runner.max_model_len == 16
    case = cases[0]
    assert driver.generate(driver.sequence(case["prompt"]), 11) == case["greedy_24_tokens"][:11]
    with pytest.raises(ConfigurationError, match="long_context_extrapolation raises the limit"):
        driver_of(folder, "reference", max_model_len=17)


def test_first_release_field_names(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path / "config.json")
    (tmp_path / "config.json").chmod(0o644)
    modern = load_model_config(tmp_path)
    fields = json.loads((folder / "config.json").read_text())
    fields = {FIRST_RELEASE_NAMES.get(name, name): value for name, value in fields.items()}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert load_model_config(tmp_path) == modern
    assert (modern.intermediate_size, modern.head_dim, modern.extrapolated_max_position) == (128, 16, 256)


def test_chat_models_end_at_im_end_though_no_file_says_so(folder: Path, tmp_path: Path) -> None:
    fields = json.loads((folder / "config.json").read_text()) | {"vocab_size": 151936}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    generation = {"chat_format": "chatml", "eos_token_id": 151643, "do_sample": True, "top_k": 0, "top_p": 0.8}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert load_model_config(tmp_path).eos_token_ids == (151643, 151645, 151644)
    (tmp_path / "generation_config.json").write_text(json.dumps(generation | {"chat_format": "raw"}))
    assert load_model_config(tmp_path).eos_token_ids == (151643,)
