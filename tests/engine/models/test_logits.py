"""Our logits against transformers', for every variant, on every way through the pages and both decoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.support.stepping import Driver, build_cpu_runner
from tests.support.tiny_checkpoints import VARIANTS, build_checkpoint, reference_logits

TOLERANCE = 1e-4
"""Of the range of the reference logits, in float32."""
BACKENDS = ("native", "cpu", "reference")


@dataclass(frozen=True, slots=True)
class Case:
    folder: Path
    sequences: list[list[int]]
    logits: list[torch.Tensor]


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = build_checkpoint(request.param, folder)
    generator = torch.Generator().manual_seed(3)
    sequences = [torch.randint(3, 512, (n,), generator=generator).tolist() for n in (75, 33, 1, 47)]
    return Case(folder, sequences, [reference_logits(model, tokens) for tokens in sequences])


@pytest.fixture(params=BACKENDS)
def driver(request: pytest.FixtureRequest, case: Case) -> Driver:
    block_size = 256 if request.param == "cpu" else 16
    return Driver(
        build_cpu_runner(
            case.folder, attention_backend=request.param, block_size=block_size, num_blocks=64, max_model_len=100
        )
    )


def assert_close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    spread = (reference.max() - reference.min()).item()
    assert (ours - reference).abs().max().item() <= TOLERANCE * spread


def test_prefill_whole(case: Case, driver: Driver) -> None:
    for tokens, logits in zip(case.sequences, case.logits, strict=True):
        driver.step((driver.sequence(tokens), len(tokens)))
        assert_close(driver.recorded[-1][0], logits[-1])


def test_prefill_in_chunks_then_decode_through_pages(case: Case, driver: Driver) -> None:
    tokens, logits = case.sequences[0], case.logits[0]
    sequence = driver.sequence(tokens)
    for count in (7, 16, 1, 23):
        driver.step((sequence, count))
    for position in range(47, 75):  # one token at a time, whatever would be sampled
        sequence.token_ids = tokens[: position + 1]
        driver.step((sequence, 1))
        assert_close(driver.recorded[-1][0], logits[position])


def test_batch_of_mixed_lengths(case: Case, driver: Driver) -> None:
    first, second, third, fourth = (driver.sequence(tokens, str(n)) for n, tokens in enumerate(case.sequences))
    driver.step((first, 74), (second, 10), (fourth, 20))
    driver.step((first, 1), (third, 1), (second, 23), (fourth, 26))
    ours = driver.recorded[-1]
    assert_close(ours[0], case.logits[0][-1])
    assert_close(ours[1], case.logits[2][-1])
    assert_close(ours[2], case.logits[1][-1])
    driver.step((fourth, 1))
    assert_close(driver.recorded[-1][0], case.logits[3][-1])
