"""The device's sampler of special rows against the CPU's, over steps whose last tokens the host has not seen yet."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from engine.kernels.step_state import StateLayout, apply_updates
from engine.request import EngineRequest, GrammarSpec, Sequence
from engine.runner.batch import ScheduledRow
from engine.runner.cuda_special import SpecialSampler
from engine.runner.slot_mirror import SlotMirror
from engine.runner.special_plan import SpecialPlan, is_special
from engine.sampling.row import SamplingRow
from engine.sampling.sampler import Sampler
from engine.sampling_params import SamplingParams
from tests.support.odd_grammar import OddThenEven

VOCAB, PADDED, SLOTS = 60, 64, 8
ASKED = [
    SamplingParams(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05),
    SamplingParams(temperature=0.0, repetition_penalty=1.8),
    SamplingParams(temperature=1.0, presence_penalty=1.5, frequency_penalty=0.5),
    SamplingParams(temperature=0.0, frequency_penalty=2.0, min_tokens=5, eos_token_ids=(3,), stop_token_ids=(9,)),
    SamplingParams(temperature=1.0, logit_bias={5: 8.0, 59: -50.0, 70: 3.0}),
    SamplingParams(temperature=1.0, min_tokens=3, eos_token_ids=(3, 80)),
    SamplingParams(temperature=0.9, allowed_token_ids=(4, 5, 6, 7), presence_penalty=3.0),
    SamplingParams(temperature=0.0, bad_words=((11,), (12,))),
    SamplingParams(temperature=0.4, top_k=20, top_p=0.9, allowed_token_ids=(4, 5, 90, -1)),
    SamplingParams(temperature=0.6, bad_words=((5, 6), (7,), *((a, b) for a in range(40) for b in range(0, 60, 3)))),
    SamplingParams(temperature=1.0, min_p=0.1, logprobs=2),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.3),
]


class Device:
    """The sampler with its state and mirror, as the runner has them, and the same on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.layout = StateLayout(SLOTS, SLOTS, 4)
        self.mirror = SlotMirror(self.layout, device)
        self.sampler = SpecialSampler(self.layout, VOCAB, OddThenEven(VOCAB), device)
        self.sampled = torch.zeros(SLOTS, dtype=torch.int32, device=device)

    def step(self, rows: tuple[ScheduledRow, ...], logits: torch.Tensor, keep_plan: bool) -> list[int]:
        self.mirror.decode_rows(rows, len(rows))
        if self.mirror.updates:
            apply_updates(self.mirror.state, torch.tensor(self.mirror.updates).int().to(self.device).view(-1, 2))
            self.mirror.updates.clear()
        slots = self.mirror.state[self.layout.row_slot : self.layout.row_slot + len(rows)]
        key = (self.mirror.changes, len(rows)) if keep_plan else None
        sampled = self.sampled[: len(rows)]
        logits = logits.to(self.device)
        plan = self.sampler.plan(rows, logits, key)
        result = self.sampler.sample(plan, rows, logits, self.mirror.state, slots, sampled)
        assert result.failed == {}
        return sampled.tolist()


def expected(sequences: list[Sequence], tokens: list[list[int]], logits: torch.Tensor, odd: list[Any]) -> list[int]:
    rows = [
        SamplingRow(s.request.sampling, ids, s.num_prompt, matcher and matcher.mask())
        for s, ids, matcher in zip(sequences, tokens, odd, strict=True)
    ]
    output = Sampler(VOCAB).sample(logits.clone(), rows)
    assert output.failed == {}
    return [token.token_id for token in output.tokens if token]


@pytest.mark.parametrize("seed", range(6))
def test_steps_ahead_of_the_host_equal_the_cpus_with_all_tokens(seed: int, device: torch.device) -> None:
    """Sequences come, go, and come back with a history in the slots of others."""
    chooser = random.Random(seed)
    there, live, pool = Device(device), list[tuple[Sequence, list[int], Any]](), list(range(SLOTS))
    for step in range(14):
        for _ in range(chooser.choice((0, 0, 1, 1, 2, 5))):
            if live and chooser.random() < 0.4:
                gone = live.pop(chooser.randrange(len(live)))[0]
                there.mirror.forget(gone.slot)
                there.sampler.forget(gone.slot)
                pool.append(gone.slot)
            if pool:
                ids = [chooser.randrange(VOCAB) for _ in range(chooser.randrange(4, 12))]
                sampling = chooser.choice(ASKED)
                grammar = GrammarSpec("regex", "x") if chooser.random() < 0.2 else None
                request = EngineRequest(f"{step}-{len(live)}", tuple(ids), sampling, grammar=grammar)
                length = len(ids) if grammar else chooser.randrange(2, len(ids) + 1)
                slot = pool.pop(chooser.randrange(len(pool)))
                matcher = OddThenEven(VOCAB) if grammar else None
                live.append((Sequence(request, list(ids), length, slot=slot), list(ids), matcher))
        if not live:
            continue
        sequences, tokens, odd = (list(column) for column in zip(*live, strict=True))
        logits = torch.randn(len(live), PADDED, generator=torch.Generator().manual_seed(100 * seed + step)) * 3
        rows = tuple(ScheduledRow(s, len(ids) - 1, 1, True) for s, ids in zip(sequences, tokens, strict=True))
        wanted = expected(sequences, tokens, logits, odd)
        assert there.step(rows, logits, chooser.random() < 0.8) == wanted
        for sequence, ids, matcher, token in zip(sequences, tokens, odd, wanted, strict=True):
            ids.append(token)
            if matcher:
                matcher.accept(token)
            # Only what needs the tokens sees them at once, the others a step late.
            sequence.token_ids[:] = ids if sequence.request.needs_history else ids[:-1]


def test_rows_that_only_want_filters_are_sampled_from_the_models_own_logits(device: torch.device) -> None:
    request = EngineRequest("a", (1, 2), SamplingParams(temperature=0.7, top_k=20, top_p=0.8))
    row = ScheduledRow(Sequence(request, [1, 2], 2, slot=0), 1, 1, True)
    plan = SpecialPlan((row,), SLOTS, PADDED, VOCAB, device)
    assert is_special(request)
    assert plan.filters is not None
    assert not plan.changes_logits


def test_rows_that_do_not_sample_ask_for_nothing(device: torch.device) -> None:
    request = EngineRequest("a", (1, 2, 3), ASKED[0], grammar=GrammarSpec("regex", "x"))
    row = ScheduledRow(Sequence(request, [1, 2, 3], 3, slot=0), 0, 2, False)
    plan = SpecialPlan((row,), SLOTS, PADDED, VOCAB, device)
    assert plan.filters is None
    assert not plan.changes_logits
    assert plan.reported == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_tables_of_any_number_of_rows_are_aligned(count: int, device: torch.device) -> None:
    """Kernels are compiled anew for pointers that are not."""
    rows = tuple(
        ScheduledRow(Sequence(EngineRequest(str(n), (1,), ASKED[0]), [1], 1, slot=n), 0, 1, True)
        for n in range(count)
    )
    plan = SpecialPlan(rows, count, PADDED, VOCAB, device)
    assert plan.filters is not None
    assert plan.penalties is not None
    for column in (*plan.filters, *plan.penalties):
        assert len(column) == count
        assert column.data_ptr() % 16 == 0
