"""Grammars in the CPU runner: rows follow theirs, broken ones fail alone, slots forget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import EngineRequest, GrammarSpec
from engine.sampling_params import SamplingParams
from engine.text.tokenizer import load_tokenizer
from tests.support.stepping import build_cpu_runner
from tests.support.tiny_checkpoints import build_with_tokenizer

END = 151_645
SAMPLING = SamplingParams(max_tokens=40, eos_token_ids=(END,), seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_with_tokenizer(folder)
    return folder


def run(core: EngineCore, *requests: EngineRequest) -> dict[str, tuple[list[int], str]]:
    """Tokens and error of each request."""
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    errors = dict.fromkeys(tokens, "")
    for request in requests:
        core.add_request(request)
    while core.has_work():
        for output in core.step():
            tokens[output.request_id] += output.token_ids
            errors[output.request_id] += output.error
    return {name: (tokens[name], errors[name]) for name in tokens}


def test_rows_follow_their_grammars(folder: Path) -> None:
    runner = build_cpu_runner(folder, max_model_len=100)
    core = EngineCore(EngineConfig(str(folder), max_num_seqs=4), runner)
    choice = GrammarSpec("choice", json.dumps(["blue whale", "red fox"]))
    regex = GrammarSpec("regex", "[0-9]{4}")
    prompt = (9707, 11)
    plain = run(core, EngineRequest("free", prompt, sampling=SAMPLING))["free"]
    found = run(
        core,
        EngineRequest("choice", prompt, sampling=SAMPLING, grammar=choice),
        EngineRequest("free", prompt, sampling=SAMPLING),
        EngineRequest("regex", prompt, sampling=SAMPLING, grammar=regex),
        EngineRequest("broken", prompt, sampling=SAMPLING, grammar=GrammarSpec("regex", "((")),
    )
    tokenizer = load_tokenizer(folder)
    assert found["free"] == plain
    assert tokenizer.decode(found["choice"][0][:-1]) in ("blue whale", "red fox")
    assert tokenizer.decode(found["regex"][0][:-1]).isdecimal()
    assert found["choice"][0][-1] == found["regex"][0][-1] == END
    assert found["broken"][0] == []
    assert found["broken"][1] != ""
    assert runner._grammars._places == {}
