"""Words of several tokens that must not be said: in whole runs on the CPU, and in the device's special rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import EngineRequest, Sequence
from engine.runner.batch import ScheduledRow
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling.processors import process
from engine.sampling.row import SamplingRow
from engine.sampling_params import SamplingParams
from tests.support.stepping import build_cpu_runner
from tests.support.tiny_checkpoints import build_checkpoint

PROMPT = (3, 17, 200, 5)
Words = tuple[tuple[int, ...], ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_checkpoint("qwen3", folder)
    return folder


def run(folder: Path, words: Words, resumed: tuple[int, ...] = (), temperature: float = 0.0) -> list[int]:
    core = EngineCore(EngineConfig(str(folder), max_num_seqs=2), build_cpu_runner(folder, num_blocks=60))
    sampling = SamplingParams(max_tokens=24, temperature=temperature, seed=5, bad_words=words)
    core.add_request(EngineRequest("a", PROMPT, sampling=sampling, resumed_token_ids=resumed))
    tokens = list(resumed)
    while core.has_work():
        for output in core.step():
            assert not output.error
            tokens += output.token_ids
    return tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_a_word_of_the_free_run_is_not_said_and_what_comes_before_it_is_the_same(
    folder: Path, length: int, temperature: float
) -> None:
    free = run(folder, (), temperature=temperature)
    word = tuple(free[8 - length : 8])
    first = next(i for i in range(len(free)) if tuple(free[i : i + length]) == word)
    bound = run(folder, (word,), temperature=temperature)
    assert bound[: first + length - 1] == free[: first + length - 1]
    assert bound[first + length - 1] != free[first + length - 1]
    assert all(tuple(bound[i : i + length]) != word for i in range(len(bound)))


def test_the_prompt_is_no_beginning_of_a_word(folder: Path) -> None:
    """As vLLM has it: only what was generated counts."""
    free = run(folder, ())
    assert run(folder, ((PROMPT[-1], free[0]),)) == free


def test_a_resumed_request_knows_what_it_had_said(folder: Path) -> None:
    free = run(folder, ())
    word = tuple(free[5:8])
    assert run(folder, (word,), tuple(free[:7])) == run(folder, (word,))


def test_only_words_of_several_tokens_need_the_history() -> None:
    def needs(words: Words) -> bool:
        return EngineRequest("a", PROMPT, sampling=SamplingParams(bad_words=words)).needs_history

    assert not needs(())
    assert not needs(((5,), (6,)))
    assert needs(((5,), (6, 7)))


@pytest.mark.parametrize("words", [((9,),), ((5, 9), (4, 8)), ((4, 5, 9), (9, 9), (7,)), ((3, 4, 5, 9),)])
def test_the_device_forbids_what_the_cpu_forbids(words: Words) -> None:
    special = pytest.importorskip("engine.runner.cuda_special")
    plan = pytest.importorskip("engine.runner.special_plan")
    layout = pytest.importorskip("engine.kernels.step_state").StateLayout(1, 1, 4)
    output = [4, 5]
    request = EngineRequest("a", (1, 2, 3), sampling=SamplingParams(temperature=0.0, bad_words=words))
    assert plan.is_special(request)
    sequence = Sequence(request, [1, 2, 3, *output], 3, num_computed=5, slot=0)
    logits = torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    rows = (ScheduledRow(sequence, 4, 1, True),)
    sampler = special.SpecialSampler(layout, 12, DeferredCompiler("none"), logits.device)
    expected = logits[0, :12].clone()
    process(expected, SamplingRow(request.sampling, sequence.token_ids, 3))
    found = sampler._changed(plan.SpecialPlan(rows, 1, 16, 12, logits.device), rows, logits, special.SpecialResult())
    assert torch.equal(found[0], expected)
    assert torch.isinf(expected).nonzero().flatten().tolist() == sorted(
        {word[-1] for word in words if list(word[:-1]) == output[len(output) - len(word) + 1 :] and len(word) <= 3}
    )
