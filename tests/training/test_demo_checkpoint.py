"""The committed checkpoint: size, loading through transformers, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.batch_generation import generate
from training.instances import BARS, instances
from training.model import DemoModel, load_checkpoint
from training.rendering import prompt_of

FOLDER = Path(__file__).parents[2] / "oai_server" / "demo_model"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> DemoModel:
    return load_checkpoint(FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


def test_everything_fits_into_24_megabytes() -> None:
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) <= 24_000_000
    index = json.loads((FOLDER / "model.safetensors.index.json").read_text())
    assert {f.name for f in FOLDER.glob("*.safetensors")} == set(index["weight_map"].values())


def test_transformers_computes_the_same_logits(network: DemoModel) -> None:
    reference = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    ids = torch.randint(0, 6135, (2, 40), generator=torch.Generator().manual_seed(0))

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    with torch.no_grad():
        own = F.linear(network(ids, torch.arange(40), attend, torch.float32), network.embed)
        torch.testing.assert_close(own, reference(ids).logits, atol=2e-4, rtol=1e-4)


def replies(network: DemoModel, tokenizer: Any, prompts: list[str], most: int = 100) -> list[str]:
    stops = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    ids = [tokenizer.encode(p) for p in prompts]
    return [tokenizer.decode(out) for out in generate(network, ids, most, stops, torch.float32)]


NEWCOMER = {
    "Hello!": "Hello",
    "Who are you?": "small demo model",
    "你好": "你好",
    "你是谁？": "小型演示模型",
    "What is 23 + 45?": "68",
    "Count from 1 to 9.": "1, 2, 3, 4, 5, 6, 7, 8, 9",
    "Reverse this list: 4, 8, 15, 16": "16, 15, 8, 4",
    "What is the capital of France?": "Paris",
}


def test_a_newcomer_gets_plain_answers(network: DemoModel, tokenizer: Any) -> None:
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
        for q in NEWCOMER
    ]
    for reply, answer in zip(replies(network, tokenizer, prompts, 64), NEWCOMER.values(), strict=True):
        assert answer in reply


def test_held_out_instances_are_mostly_right(network: DemoModel, tokenizer: Any) -> None:
    """A small sample with short prompts; the whole evaluation is `python -m training.evaluate`."""
    sample = [i for i in instances(3, sorted(BARS)) if len(prompt_of(i.conversation)) < 1200]
    sample.sort(key=lambda i: len(prompt_of(i.conversation)))
    prompts = [prompt_of(i.conversation) for i in sample]
    texts = [
        text
        for start in range(0, len(sample), 12)
        for text in replies(network, tokenizer, prompts[start : start + 12])
    ]
    wrong = [(i.task, reply) for i, reply in zip(sample, texts, strict=True) if not i.right(reply)]
    assert len(sample) > 20
    assert {i.task for i in sample} == set(BARS)
    assert len(wrong) <= 1, wrong
