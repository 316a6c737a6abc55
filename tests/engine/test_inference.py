"""The Python face: text in, text out, against transformers' own greedy generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from engine import InferenceEngine, SamplingParams
from engine.errors import ConfigurationError, ContextLengthError, RequestError
from tests.support.tiny_checkpoints import build_with_tokenizer

PROMPTS = ["Hello", "AI is", "AI 的未来是"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_with_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> InferenceEngine:
    return InferenceEngine(folder, device="cpu", num_threads=1, max_num_seqs=4, max_model_len=200)


def test_generate_as_transformers_does(engine: InferenceEngine, folder: Path) -> None:
    model = Qwen3ForCausalLM.from_pretrained(folder).eval()
    replies = engine.generate(PROMPTS, max_tokens=20, temperature=0.0)
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        prompt_ids = engine.tokenizer.encode(prompt)
        with torch.inference_mode():
            all_logits = model(torch.tensor([[*prompt_ids, *reply.token_ids]])).logits[0, len(prompt_ids) - 1 : -1]
        for logits, token in zip(all_logits[:, : engine.tokenizer.vocab_size], reply.token_ids, strict=True):
            assert logits[token] >= logits.max() - 1e-3
        assert reply == engine.tokenizer.decode(reply.token_ids, skip_special_tokens=True).rstrip("�")
        assert reply.finish_reason in ("length", "stop")
    assert engine.stats().num_running == 0


def test_stream_and_generate_agree(engine: InferenceEngine) -> None:
    sampling = SamplingParams(max_tokens=30, temperature=1.2, seed=5)
    (whole,) = engine.generate("AI 的未来是", sampling)
    pairs = list(engine.stream_generate("AI 的未来是", sampling))
    assert tuple(token for token, _ in pairs) == whole.token_ids
    assert "".join(text for _, text in pairs) == whole


def test_streams_may_be_interleaved_and_left(engine: InferenceEngine) -> None:
    sampling = SamplingParams(max_tokens=12, temperature=1.0, seed=9)
    expected = [list(engine.stream_generate(prompt, sampling)) for prompt in PROMPTS]
    streams = [engine.stream_generate(prompt, sampling) for prompt in PROMPTS]
    left = engine.stream_generate("leave me", max_tokens=100)
    next(left)
    left.close()
    found: list[list[tuple[int, str]]] = [[], [], []]
    for _ in range(12):
        for pairs, stream in zip(found, streams, strict=True):
            pairs += [pair for pair in [next(stream, None)] if pair]
    assert found == expected
    assert engine.stats().kv_blocks_used == 0


def test_unseeded_requests_differ_and_repeat_with_the_engine(folder: Path, engine: InferenceEngine) -> None:
    settings = {"device": "cpu", "num_threads": 1, "max_num_seqs": 4, "max_model_len": 200}
    one, other = (InferenceEngine(folder, **settings, seed=3).generate(["Hello"] * 3, max_tokens=8) for _ in range(2))
    assert one == other
    assert len(set(one)) == 3


def test_ids_may_come_as_lists(engine: InferenceEngine) -> None:
    (free,) = engine.generate("Hello", max_tokens=4, temperature=0, eos_token_ids=[])
    (stopped,) = engine.generate("Hello", max_tokens=4, temperature=0, stop_token_ids=[free.token_ids[0]])
    assert (stopped.finish_reason, len(stopped.token_ids)) == ("stop", 1)


def test_refusals(engine: InferenceEngine, folder: Path) -> None:
    with pytest.raises(ContextLengthError, match="maximum context length is 200"):
        engine.generate(["Hello", "long " * 300])
    with pytest.raises(RequestError, match="empty"):
        engine.generate("")
    with pytest.raises(ConfigurationError, match="unknown sampling parameters: heat"):
        engine.generate("Hello", heat=1)
    with pytest.raises(ConfigurationError, match=r"Expected `int`, got `str` - at `\$\.max_tokens`"):
        engine.generate("Hello", max_tokens="many")
    with pytest.raises(ConfigurationError, match="unknown settings: colour"):
        InferenceEngine(folder, colour="red")
    with pytest.raises(ConfigurationError, match="policy"):
        InferenceEngine(folder, policy="nonsense")
    assert engine.stats().num_running == engine.stats().num_waiting == 0
    assert len(engine.generate("Hello", max_tokens=3)) == 1
