"""Checkpoints that are damaged, incomplete, foreign or hostile; dummy weights; dtypes; progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ModelLoadError
from engine.models.checkpoint import stored_dtype
from engine.models.config import load_model_config
from engine.models.weights import ModelWeights, load_weights, weights_nbytes
from tests.support.tiny_checkpoints import build_checkpoint

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_checkpoint("qwen2", tmp_path)
    return tmp_path


def load(folder: Path, dtype: torch.dtype = torch.float32) -> ModelWeights:
    return load_weights(folder, load_model_config(folder), "cpu", dtype)


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_merged_tensors_and_progress(folder: Path) -> None:
    config = load_model_config(folder)
    seen: list[tuple[int, int]] = []
    weights = load_weights(
        folder, config, "cpu", torch.float32, progress=lambda done, total: seen.append((done, total))
    )
    tensors = load_file(folder / "model.safetensors")
    prefix = "model.layers.2."
    names = [f"{prefix}self_attn.{p}_proj.weight" for p in "qkv"]
    assert torch.equal(weights.layers[2].qkv, torch.cat([tensors[name] for name in names]))
    gate_up = torch.cat([tensors[f"{prefix}mlp.gate_proj.weight"], tensors[f"{prefix}mlp.up_proj.weight"]])
    assert torch.equal(weights.layers[2].gate_up, gate_up)
    assert seen[-1] == (weights_nbytes(config, torch.float32),) * 2
    assert sorted(seen) == seen


def test_converted_on_the_way(folder: Path) -> None:
    assert load(folder, torch.bfloat16).layers[0].down.dtype is torch.bfloat16
    assert stored_dtype(folder, "model.norm.weight") is torch.float32


def test_tied_matrices_are_one(tmp_path: Path) -> None:
    build_checkpoint("qwen2-tied", tmp_path)
    weights = load(tmp_path)
    assert weights.lm_head is weights.embedding
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert load(tmp_path).lm_head.shape == (512, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.3.mlp.up_proj.weight"), "1 tensors .* missing, such as model.layers.3.mlp.up"),
        (lambda t: t.pop("lm_head.weight"), "such as lm_head.weight"),
        (lambda t: t.update({"model.norm.weight": torch.ones(63)}), r"model.norm.weight has shape \[63\].*\[64\]"),
        (lambda t: t.update({"model.layers.0.mlp.down_proj.bias": torch.ones(64)}), "not part of Qwen2ForCausalLM"),
        (lambda t: t.update({"model.layers.4.input_layernorm.weight": torch.ones(64)}), "with 4 layers"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}),
            "stored as I8, supported: BF16",
        ),
    ],
)
def test_wrong_tensors(folder: Path, change: Callable[[Tensors], object], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(folder)
    assert str(folder / "model.safetensors") in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 100, 100_000])
def test_truncated_file(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors: damaged"):
        load(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode(),
        json.dumps(
            {
                "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            }
        ).encode(),
        json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}).encode(),
    ],
)
def test_h02_hostile_header(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelLoadError, match=r"model\.safetensors: damaged"):
        load(folder)


def test_h01_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin is a pickle, which can run code"):
        load(folder)


def test_index_faults(tmp_path: Path) -> None:
    build_checkpoint("qwen2-sharded-hub", tmp_path)
    load(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    weight_map = content["weight_map"]
    first = next(iter(weight_map))

    def fails(changed: object, message: str) -> None:
        index.write_text(json.dumps({**content, "weight_map": changed}))
        with pytest.raises(ModelLoadError, match=message):
            load(tmp_path)

    fails({**weight_map, first: "../outside.safetensors"}, "not the name of a safetensors file")
    fails({**weight_map, first: "gone.safetensors"}, r"gone\.safetensors: no such file")
    fails({**weight_map, "model.more": weight_map[first]}, "model.more is missing")
    fails([], "weight_map is missing")


def test_h03_links_out_of_the_folder_are_refused_but_for_the_hub_cache(folder: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub" / "models--a--b"
    snapshot = hub / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    (folder / "config.json").rename(snapshot / "config.json")
    (folder / "model.safetensors").rename(hub / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    load(snapshot)
    (snapshot / "model.safetensors").unlink()
    (hub / "blobs" / "abc").rename(tmp_path / "elsewhere")
    (snapshot / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelLoadError, match="leads out of the model's folder"):
        load(snapshot)


def test_dummy_weights_need_no_file_and_repeat(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    config = load_model_config(folder)
    one, two = (load_weights(folder, config, "cpu", torch.bfloat16, "dummy", seed=5) for _ in range(2))
    assert torch.equal(one.layers[3].gate_up, two.layers[3].gate_up)
    assert one.final_norm.eq(1).all()
    assert one.layers[0].qkv.float().std() > 0.01
