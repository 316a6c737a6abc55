"""config.json in old and new spellings, and refusals that say what is wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelLoadError
from engine.models.architectures import find_architecture
from engine.models.config import ModelConfig, load_model_config
from engine.models.fields import Fields, read_json
from engine.models.vocabulary import tokenizer_size
from tests.support.qwen_data import ROOT, qwen_data

QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "rope_theta": 5e6,
}


def parse(folder: Path, generation: dict[str, Any] | None = None, **changes: Any) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(QWEN2 | changes))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return load_model_config(folder)


def test_published_files() -> None:
    found = {}
    for path in sorted((qwen_data() / "configs").glob("*.config.json")):
        fields = Fields(read_json(path), path)
        try:
            found[path.name] = find_architecture(fields).parse(fields, Fields({}, path))
        except ModelLoadError as error:
            found[path.name] = str(error)
    assert found["qwen2.5-7b-instruct.config.json"].num_kv_heads == 4
    assert found["qwen2.5-7b-instruct.config.json"].layer_windows == ()
    assert found["qwen3-4b.config.json"].head_dim == 128
    assert found["qwen3-4b-instruct-2507.config.json"].rope.theta == 5e6
    assert found["qwen-7b.config.json"].max_position == 8192
    assert found["qwen-7b-chat.early-field-names.config.json"].intermediate_size == 11008
    assert found["qwen-72b.config.json"].extrapolated_max_position == 0
    for name in ("qwen3-vl-4b", "qwen3.5-0.8b", "qwen-vl-chat-int4.gptq"):
        assert "not supported; supported: " in found[f"{name}.config.json"]


def test_old_and_new_spellings_are_one(tmp_path: Path) -> None:
    old = parse(tmp_path, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024})
    rope = {"rope_type": "yarn", "rope_theta": 5e6, "factor": 4.0, "original_max_position_embeddings": 1024}
    changes = {"rope_theta": None, "torch_dtype": None, "dtype": "bfloat16", "rope_parameters": rope}
    assert parse(tmp_path, **changes) == old
    assert old.max_position == 4096
    assert old.rope.attention_factor == pytest.approx(0.1 * math.log(4) + 1)


def test_windows_count_only_when_switched_on(tmp_path: Path) -> None:
    assert parse(tmp_path, sliding_window=32, use_sliding_window=False).layer_windows == ()
    windowed = parse(tmp_path, sliding_window=32, use_sliding_window=True, max_window_layers=3)
    assert windowed.layer_windows == (None, None, None, 32)
    types = ["sliding_attention", "full_attention"] * 2
    windowed = parse(tmp_path, sliding_window=32, use_sliding_window=True, layer_types=types)
    assert windowed.layer_windows == (32, None, 32, None)


def test_generation_defaults_and_stop_ids(tmp_path: Path) -> None:
    generation = {"eos_token_id": [5, 3], "temperature": 0.7, "top_k": 20, "do_sample": True, "top_p": 0.8}
    config = parse(tmp_path, generation, eos_token_id=3)
    assert config.eos_token_ids == (5, 3)
    assert (config.generation.temperature, config.generation.top_k, config.generation.min_p) == (0.7, 20, None)
    assert parse(tmp_path, {"do_sample": False}).generation.temperature == 0.0


@pytest.mark.parametrize(
    "absurd",
    [
        {"temperature": -5, "top_p": 7, "top_k": -3, "min_p": 2, "repetition_penalty": 0, "max_new_tokens": 0},
        {"temperature": 99, "top_p": 0, "top_k": 2**40, "min_p": -1, "repetition_penalty": 1e-30},
        {"temperature": "hot", "top_p": [1], "top_k": 1.5, "min_p": True, "repetition_penalty": float("nan")},
    ],
)
def test_h05_absurd_defaults_are_left_out(
    tmp_path: Path, absurd: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert parse(tmp_path, absurd).generation == parse(tmp_path, {}).generation
    assert all(f"{name} is out of range" in caplog.text for name in absurd)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM.*supported: QWenLMHeadModel, Qwen2ForCausalLM"),
        ({"architectures": None, "model_type": None}, "architecture None is not supported"),
        ({"model_type": "qwen3"}, "does not belong"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization 'fp8' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization 'unknown'"),
        ({"dual_chunk_attention_config": {"chunk_size": 1}}, "dual_chunk_attention_config"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic' is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 1e9}}, "factor must be a number in"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size must be an integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer in"),
        ({"vocab_size": -1}, "vocab_size must be"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"head_dim": 15}, "even"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"torch_dtype": "float8_e4m3fn"}, "dtype 'float8_e4m3fn' is not supported"),
        ({"tie_word_embeddings": "yes"}, "true or false"),
        ({"use_sliding_window": True, "sliding_window": 4, "layer_types": ["linear"] * 4}, "layer_types"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"rms_norm_eps": True}, "rms_norm_eps"),
    ],
)
def test_refusals_name_file_and_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        parse(tmp_path, **changes)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_unreadable_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        load_model_config(tmp_path)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        load_model_config(tmp_path / "nowhere")


def test_reading_a_config_loads_no_torch() -> None:
    code = "import sys, engine.models.architectures as a; a.table(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize(("name", "size"), [("qwen3", 151669), ("qwen2.5", 151665), ("qwen1", 151851)])
def test_tokenizer_size(name: str, size: int) -> None:
    assert tokenizer_size(qwen_data() / "tokenizers" / name) == size


def test_no_tokenizer(tmp_path: Path) -> None:
    assert tokenizer_size(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json"):
        tokenizer_size(tmp_path)
