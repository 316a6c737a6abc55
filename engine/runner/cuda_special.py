"""Rows that ask for more than temperature: filters, bias, penalties, masks, log-probabilities.

The changes of logits and their order are the CPU sampler's own (`engine.sampling.processors`), run on the device;
what goes back to the host is copied without waiting and read with the step's ids.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.errors import RequestError
from engine.kernels.filters import filter_thresholds
from engine.kernels.sampling import gumbel_sample
from engine.kernels.step_state import StateLayout
from engine.request import EngineRequest, TokenLogprobs
from engine.runner.batch import SampledToken, ScheduledRow
from engine.sampling.filters import filtering
from engine.sampling.processors import needs_processing, process
from engine.sampling.row import SamplingRow
from engine.sampling.row_grammars import RowGrammars
from engine.sampling_params import SamplingParams

PROMPT_LOGPROB_ROWS = 64
"""Positions whose logits exist at once while prompt logprobs are computed."""


def is_special(request: EngineRequest) -> bool:
    """Whether this request's rows cannot be sampled by temperature alone."""
    params = request.sampling
    return bool(
        (filtering(params) and not params.greedy)
        or params.logprobs is not None
        or params.prompt_logprobs is not None
        or params.logit_bias
        or params.allowed_token_ids
        or params.bad_words
        or params.min_tokens
        or request.needs_history
    )


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
        self._host = [_to_host(t) for t in ((chosen - totals).squeeze(1), ranks, ids, values - totals)]

    def read(self) -> list[TokenLogprobs]:
        """Only once the step's event has passed."""
        logprobs, ranks, ids, values = (tensor.tolist() for tensor in self._host)
        return [
            TokenLogprobs(logprobs[row], ranks[row], tuple(ids[row][:k]), tuple(values[row][:k]))
            for row, k in enumerate(self._top)
        ]


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


class SpecialSampler:
    """Samples one step in which at least one row is special, and keeps what the result will need."""

    def __init__(
        self, rows: tuple[ScheduledRow, ...], logits: torch.Tensor, vocab: int, grammars: RowGrammars
    ) -> None:
        """`logits` [rows, padded vocab] of each row's last token; ids from `vocab` on are not sampled."""
        self._rows = rows
        self._grammars = grammars
        self.failed: dict[str, str] = {}
        """By request id: grammars that cannot be followed."""
        self._logits = logits
        self._vocab = vocab
        self._reported = [n for n, row in enumerate(rows) if row.samples and _params(row).logprobs is not None]
        self._sampled_logprobs: LogprobCopy | None = None
        self._prompt: dict[str, list[LogprobCopy]] = {}

    def sample(self, state: torch.Tensor, layout: StateLayout, slots: torch.Tensor, sampled: torch.Tensor) -> None:
        """Write a token a row into `sampled` and into the state."""
        raw = self._logits[self._reported] if self._reported else None
        usable = self._processed()
        gumbel_sample(usable, state, layout, slots, sampled, self._vocab, self._thresholds(usable))
        if raw is not None:
            tokens = sampled[self._reported].long()
            top = [_params(self._rows[number]).logprobs or 0 for number in self._reported]
            self._sampled_logprobs = LogprobCopy(raw, tokens, top)

    def _processed(self) -> torch.Tensor:
        """The logits with bias, masks and penalties applied; a float32 copy where any row has them."""
        changed = [
            (number, self._sampling_row(row))
            for number, row in enumerate(self._rows)
            if row.samples and (row.sequence.request.grammar or needs_processing(SamplingRow(_params(row), (), 0)))
        ]
        usable = self._logits[:, : self._vocab]
        if not changed:
            return usable
        usable = usable.to(torch.float32, copy=True)
        for number, row in changed:
            process(usable[number], row)
        return usable

    def _sampling_row(self, row: ScheduledRow) -> SamplingRow:
        """Its last token may be in flight: then only the number of tokens is known, and no more is asked of it."""
        sequence, known = row.sequence, row.start + row.count
        tokens = sequence.token_ids[:known] if sequence.request.needs_history else range(known)
        mask = None
        if sequence.request.grammar is not None:
            try:
                mask = self._on_device(self._grammars.mask(sequence))
            except RequestError as error:
                self.failed[sequence.request_id] = str(error)
        return SamplingRow(_params(row), tokens, sequence.num_prompt, mask)

    def _on_device(self, mask: torch.Tensor) -> torch.Tensor:
        """Packed bits through page-locked memory: the host does not wait, and the device unpacks them."""
        if self._logits.device.type == "cpu":
            return mask
        return mask.pin_memory().to(self._logits.device, non_blocking=True)

    def _thresholds(self, usable: torch.Tensor) -> torch.Tensor | None:
        found = [
            (number, params)
            for number, row in enumerate(self._rows)
            if row.samples and not (params := _params(row)).greedy and filtering(params)
        ]
        if not found:
            return None
        device = usable.device
        integers = torch.tensor([[n for n, _ in found], [max(p.top_k, 0) for _, p in found]], dtype=torch.int32)
        floats = torch.tensor([[getattr(p, name) for _, p in found] for name in ("top_p", "min_p", "temperature")])
        numbers, top_k = integers.to(device, non_blocking=True)
        top_p, min_p, temperature = floats.to(device, non_blocking=True)
        return filter_thresholds(usable, numbers, top_k, top_p, min_p, temperature)

    def read_prompt(self, hidden: torch.Tensor, to_logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Queue the prompt logprobs of this step's chunks; `hidden` [tokens, hidden] of all rows in order."""
        first = 0
        for row in self._rows:
            sequence, top = row.sequence, _params(row).prompt_logprobs
            following = sequence.token_ids[row.start + 1 : min(row.start + row.count + 1, sequence.num_prompt)]
            if top is not None and following:
                tokens = torch.tensor(following).to(hidden.device)
                copies = self._prompt.setdefault(sequence.request_id, [])
                for at in range(0, len(following), PROMPT_LOGPROB_ROWS):
                    part = tokens[at : at + PROMPT_LOGPROB_ROWS]
                    logits = to_logits(hidden[first + at : first + at + len(part)])
                    copies.append(LogprobCopy(logits, part, [top] * len(part)))
            first += row.count

    def with_logprobs(self, sampled: list[SampledToken | None]) -> list[SampledToken | None]:
        if self._sampled_logprobs is None:
            return sampled
        for number, entry in zip(self._reported, self._sampled_logprobs.read(), strict=True):
            token = sampled[number]
            if token is not None:
                sampled[number] = SampledToken(token.token_id, entry)
        return sampled

    def prompt_logprobs(self) -> dict[str, list[TokenLogprobs]]:
        return {name: [entry for copy in copies for entry in copy.read()] for name, copies in self._prompt.items()}


def _params(row: ScheduledRow) -> SamplingParams:
    return row.sequence.request.sampling
