"""Rows that ask for more than temperature: filters, bias, penalties, masks, log-probabilities.

The changes of logits and their order are the CPU sampler's own (`engine.sampling.processors`), made for many rows at
once on the device; what goes back to the host is copied without waiting and read with the step's ids.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.errors import RequestError
from engine.kernels.filters import filter_thresholds
from engine.kernels.processors import apply_masks, count_sampled, penalise
from engine.kernels.sampling import gumbel_sample
from engine.kernels.step_state import StateLayout
from engine.request import Sequence, TokenLogprobs
from engine.runner.batch import SampledToken, ScheduledRow
from engine.runner.special_plan import Rows, SpecialPlan
from engine.runner.token_counts import TokenCounts
from engine.runner.transfers import to_device, to_host
from engine.sampling.row_grammars import Compiler, RowGrammars
from engine.sampling_params import SamplingParams

LOGPROB_ROWS = 64
"""Whose logits exist as float32 at once while log-probabilities are computed: some 110 MB at Qwen's vocabulary."""


class LogprobCopy:
    """Raw log-probabilities of some rows, on their way to the host."""

    def __init__(self, logits: torch.Tensor, tokens: torch.Tensor, top: list[int]) -> None:
        """`logits` [rows, vocab]; `tokens` [rows] int64 on the device; `top`: how many likeliest each row reports."""
        raw = logits.float()
        totals = raw.logsumexp(1, keepdim=True)
        chosen = raw.gather(1, tokens.clamp(min=0).unsqueeze(1))
        ranks = (raw > chosen).sum(1) + 1
        self._top = [min(k, raw.shape[1]) for k in top]
        values, ids = torch.topk(raw, max(self._top, default=0), dim=1)
        self._host = [to_host(t) for t in ((chosen - totals).squeeze(1), ranks, ids, values - totals)]

    def read(self) -> list[TokenLogprobs]:
        """Only once the step's event has passed."""
        logprobs, ranks, ids, values = (tensor.tolist() for tensor in self._host)
        return [
            TokenLogprobs(logprobs[row], ranks[row], tuple(ids[row][:k]), tuple(values[row][:k]))
            for row, k in enumerate(self._top)
        ]


class SpecialResult:
    """What one step with special rows sends back beside its ids."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        """By request id: grammars that cannot be followed."""
        self._reported: list[int] = []
        self._sampled: list[LogprobCopy] = []
        self._prompt: dict[str, list[LogprobCopy]] = {}

    def report(
        self, numbers: list[int], places: torch.Tensor, logits: torch.Tensor, sampled: torch.Tensor, top: list[int]
    ) -> None:
        """Queue the logprobs of what the rows `numbers` sampled, which `places` [reported] int64 are on the device:
        logits [rows, vocab] before any change, ids [rows]; `top` as in `LogprobCopy`."""
        self._reported = numbers
        for at in range(0, len(numbers), LOGPROB_ROWS):
            part = places[at : at + LOGPROB_ROWS]
            raw, tokens = logits.index_select(0, part), sampled.index_select(0, part).long()
            self._sampled.append(LogprobCopy(raw, tokens, top[at : at + LOGPROB_ROWS]))

    def read_prompt(
        self, rows: Rows, hidden: torch.Tensor, to_logits: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Queue the prompt logprobs of this step's chunks; `hidden` [tokens, hidden] of all rows in order."""
        first = 0
        for row in rows:
            sequence, top = row.sequence, _params(row).prompt_logprobs
            following = sequence.token_ids[row.start + 1 : min(row.start + row.count + 1, sequence.num_prompt)]
            if top is not None and following:
                tokens = to_device(following, torch.int64, hidden.device)
                copies = self._prompt.setdefault(sequence.request_id, [])
                for at in range(0, len(following), LOGPROB_ROWS):
                    part = tokens[at : at + LOGPROB_ROWS]
                    logits = to_logits(hidden[first + at : first + at + len(part)])
                    copies.append(LogprobCopy(logits, part, [top] * len(part)))
            first += row.count

    def with_logprobs(self, sampled: list[SampledToken | None]) -> list[SampledToken | None]:
        entries = [entry for copy in self._sampled for entry in copy.read()]
        for number, entry in zip(self._reported, entries, strict=True):
            token = sampled[number]
            if token is not None:
                sampled[number] = SampledToken(token.token_id, entry)
        return sampled

    def prompt_logprobs(self) -> dict[str, list[TokenLogprobs]]:
        return {name: [entry for copy in copies for entry in copy.read()] for name, copies in self._prompt.items()}


class SpecialSampler:
    """Samples steps in which at least one row is special. Owns what grammars and penalties know of each slot."""

    def __init__(self, layout: StateLayout, vocab: int, compiler: Compiler, device: torch.device) -> None:
        """Ids from `vocab` on are not sampled."""
        self._layout = layout
        self._vocab = vocab
        self._grammars = RowGrammars(compiler)
        self._counts = TokenCounts(layout.slots, vocab, device)
        self._known: tuple[object, SpecialPlan] | None = None

    def sample(
        self,
        plan: SpecialPlan,
        rows: Rows,
        logits: torch.Tensor,
        state: torch.Tensor,
        slots: torch.Tensor,
        sampled: torch.Tensor,
    ) -> SpecialResult:
        """Write a token a row into `sampled` [rows] and into the state. `logits` [rows, padded vocab] are of each
        row's last token, `slots` [rows] as in `gumbel_sample`. Sequences that have ended since `plan` was made have
        no slot any more: of them it matters little what is sampled.
        """
        result = SpecialResult()
        usable = self._changed(plan, rows, logits, result)
        threshold = filter_thresholds(usable, *plan.filters) if plan.filters else None
        gumbel_sample(usable, state, self._layout, slots, sampled, self._vocab, threshold)
        if plan.penalties:
            count_sampled(self._counts.counts, plan.penalties.slots, sampled)
        if plan.reported:
            top = [_params(rows[number]).logprobs or 0 for number in plan.reported]
            result.report(plan.reported, plan.reported_index, logits, sampled, top)
        return result

    def rehearse(self, state: torch.Tensor, width: int, dtype: torch.dtype) -> None:
        """Launch every kernel once for the dummy slot, on logits [1, width] of the model's `dtype`."""
        dummy, row, sampled = (to_device([n], torch.int32, state.device) for n in (self._layout.slots, 0, 0))
        words = torch.zeros((1, -(-self._vocab // 32)), dtype=torch.int32)
        one = torch.ones((1,), device=state.device)
        logits = torch.zeros((1, width), dtype=dtype, device=state.device)
        for usable in (logits[:, : self._vocab], logits.float()[:, : self._vocab]):
            threshold = filter_thresholds(usable, row, dummy, one, one, one)
            for limit in (threshold, None):
                gumbel_sample(usable, state, self._layout, dummy, sampled, self._vocab, limit)
        apply_masks(usable, row, words.to(state.device))
        penalise(usable, self._counts.counts, dummy, one, one, one)
        count_sampled(self._counts.counts, dummy, sampled)

    def forget(self, slot: int) -> None:
        """The slot's request has ended or lost its place."""
        self._grammars.forget(slot)
        self._counts.forget(slot)

    def plan(self, rows: Rows, logits: torch.Tensor, same_rows: object = None) -> SpecialPlan:
        """For a step of these rows, all of which have their slots. While `same_rows` is equal, and not None, so are
        the rows."""
        if self._known is not None and self._known[0] == same_rows:
            return self._known[1]
        plan = SpecialPlan(rows, self._layout.slots, logits.shape[1], self._vocab, logits.device)
        if same_rows is not None:
            self._known = (same_rows, plan)
        return plan

    def _changed(self, plan: SpecialPlan, rows: Rows, logits: torch.Tensor, result: SpecialResult) -> torch.Tensor:
        """The logits [rows, vocab] with all that was asked for applied; a float32 copy if anything was."""
        if not plan.changes_logits:
            return logits[:, : self._vocab]
        copy = logits.to(torch.float32, copy=True)
        flat, usable = copy.view(-1), copy[:, : self._vocab]
        if plan.bias:
            flat.index_add_(0, *plan.bias)
        if plan.allowed:
            apply_masks(usable, *plan.allowed)
        for forbidden in (plan.never, plan.ends_of_words(rows)):
            if forbidden is not None:
                flat.index_fill_(0, forbidden, float("-inf"))
        if plan.grammars:
            self._mask(plan.grammars, rows, usable, result)
        if (ends := plan.not_yet(rows)) is not None:
            flat.index_fill_(0, ends, float("-inf"))
        if plan.penalties:
            for number in plan.counted:
                if rows[number].sequence.slot >= 0:
                    self._counts.meet(rows[number].sequence)
            penalise(usable, self._counts.counts, *plan.penalties)
        return usable

    def _mask(self, numbers: list[int], rows: Rows, usable: torch.Tensor, result: SpecialResult) -> None:
        """A grammar that cannot be followed ends its own request."""
        followed: dict[int, torch.Tensor] = {}
        for number in numbers:
            sequence: Sequence = rows[number].sequence
            if sequence.slot < 0:
                continue
            try:
                followed[number] = self._grammars.mask(sequence)
            except RequestError as error:
                result.failed[sequence.request_id] = str(error)
        if followed:
            masks = torch.stack(tuple(followed.values()))
            of = to_device(list(followed), torch.int32, usable.device)
            apply_masks(usable, of, to_device(masks.numpy(), torch.int32, usable.device))


def _params(row: ScheduledRow) -> SamplingParams:
    return row.sequence.request.sampling
