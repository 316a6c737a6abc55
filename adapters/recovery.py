"""Which requests go to a new engine, in which order, and which one is refused for killing engines. Pure logic.

After a death every request that was in a forward pass is a suspect. A token since the previous death clears it of
that one. Nobody is refused for a death that others were present at. A request that was running in two deaths in a row
without a token between them is run by itself on the next engine before all others, until it has had a few tokens, and
refused if that engine dies as well. So two that kill engines in each other's company cost none of their neighbours.
One that has tokens in every life and still kills is found in the same way after some deaths, in trials that grow
longer from one to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

MAX_DEATHS = 16
"""Deaths that a request without company may live through, whatever it produced in between."""
STRIKES_AMONG_STRANGERS = 5
"""Deaths in a row that prove guilt although requests of other processes were present each time."""
DEATHS_A_TRIAL = 4
"""Every 4th death that a request was present at puts it on trial, tokens or not."""
TRIAL_TOKENS = 2
TRIAL_GROWTH = 4
"""Tokens that end a first trial, and how many times more each further one takes."""


@dataclass(slots=True)
class _Record:
    strikes: int = 0
    """Deaths in a row in which it was running, without a token between them."""
    deaths: int = 0
    trials: int = 0
    """Those that it has passed."""
    deaths_alone: int = 0
    """On trial, after a token."""
    on_trial: bool = False
    submitted: bool = True
    proven: bool = False
    """It had a token of the engine before the present one."""
    num_steps: int = 0
    """Steps with a token of the present (or, after a death, of the last) engine, as far as they were reported."""

    @property
    def needed_steps(self) -> int:
        """After so many, others may join it."""
        return TRIAL_TOKENS * TRIAL_GROWTH**self.trials if self.on_trial else 1


class Recovery:
    """Every live request from its first submission to its end. Methods return the ids to submit (or refuse) now."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._held: deque[list[str]] = deque()
        """Groups that are kept from the engine until others have had a token."""
        self._newcomers: list[str] | None = None
        """The last group in `_held`, if it is of requests that came in meanwhile."""
        self._unproven: set[str] = set()
        """Submitted requests whose tokens are awaited before the next group is let in."""
        self._gate_closed = False
        """Only those on trial may go to the engine."""

    def __len__(self) -> int:
        return len(self._records)

    @property
    def has_trials(self) -> bool:
        return any(record.on_trial for record in self._records.values())

    @property
    def waits_for_tokens(self) -> bool:
        """Every step with tokens must be told to `progressed`, not only a request's first."""
        return bool(self._unproven)

    def add(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """New requests. Returns those to submit; while suspects are on trial, newcomers would blur the evidence."""
        wait = bool(self._held or self._unproven or self._gate_closed)
        for request_id in request_ids:
            self._records[request_id] = _Record(submitted=not wait)
        if not wait:
            return tuple(request_ids)
        if self._gate_closed:
            return ()
        if self._newcomers is None:
            self._newcomers = []
            self._held.append(self._newcomers)
        self._newcomers += request_ids
        return ()

    def progressed(self, request_id: str) -> tuple[str, ...]:
        """A step brought tokens. Returns requests to submit."""
        record = self._records.get(request_id)
        if record is None:
            return ()
        record.num_steps += 1
        if record.num_steps < record.needed_steps:
            return ()
        if record.on_trial:
            record.on_trial = False
            record.trials += 1
        return self._cleared(request_id)

    def remove(self, request_id: str) -> tuple[str, ...]:
        """It has ended. Returns requests to submit."""
        self._records.pop(request_id, None)  # engine_died has taken those that it refuses
        return self._cleared(request_id)

    def engine_died(self, ran: Collection[str], strangers: bool = False) -> tuple[str, ...]:
        """`ran`: requests that were in a forward pass of this engine. Returns the requests to refuse.

        `strangers`: others were, too, of other processes.
        """
        running = [
            request_id for request_id, record in self._records.items() if record.submitted and request_id in ran
        ]
        for request_id in running:
            record = self._records[request_id]
            record.strikes = 1 if record.num_steps else record.strikes + 1
            record.deaths += 1
        refused: tuple[str, ...] = ()
        if len(running) == 1 and self._is_guilty(running[0], strangers):
            refused = (running[0],)
            del self._records[running[0]]
        elif len(running) > 1 or strangers:
            for request_id in running:
                record = self._records[request_id]
                record.on_trial |= record.strikes >= 2 or record.deaths % DEATHS_A_TRIAL == 0
        for record in self._records.values():
            record.submitted = False
        self._reset()
        return refused

    def engine_ready(self, gate_closed: bool = False) -> tuple[str, ...]:
        """A new engine (or one that has forgotten us) takes requests. Returns those to submit first.

        `gate_closed`: only those on trial come in turn, the others after `open_gate`.
        """
        self._reset()
        for request_id, record in self._records.items():
            if record.on_trial:
                self._held.append([request_id])
            record.proven = record.num_steps > 0
            record.num_steps = 0
            record.submitted = False
        self._gate_closed = True
        return self._next_groups() if gate_closed else self.open_gate()

    def open_gate(self) -> tuple[str, ...]:
        """Returns the ids to submit now."""
        self._gate_closed = False
        proven: list[str] = []
        doubtful: list[str] = []
        untried: list[str] = []
        for request_id, record in self._records.items():
            if record.on_trial or record.submitted:
                continue
            if record.strikes:
                (proven if record.proven else doubtful).append(request_id)
            else:
                untried.append(request_id)
        self._held.extend(group for group in (proven, doubtful) if group)
        if untried:
            self._held.append(untried)
            self._newcomers = untried
        return self._next_groups()

    def _is_guilty(self, request_id: str, strangers: bool) -> bool:
        """Of a death at which nobody else of ours was present."""
        record = self._records[request_id]
        record.deaths_alone += record.on_trial and record.num_steps > 0
        enough = STRIKES_AMONG_STRANGERS if strangers else 2
        return record.strikes >= enough or record.deaths_alone >= enough or record.deaths >= MAX_DEATHS

    def _cleared(self, request_id: str) -> tuple[str, ...]:
        self._unproven.discard(request_id)
        return self._next_groups() if self._held else ()

    def _next_groups(self) -> tuple[str, ...]:
        while self._held and not self._unproven:
            group = self._held.popleft()
            untried = group is self._newcomers
            group = [request_id for request_id in group if request_id in self._records]
            if untried:
                self._newcomers = None
            else:
                self._unproven.update(group)
            if group:
                return self._submit(group)
        return ()

    def _reset(self) -> None:
        self._held.clear()
        self._unproven.clear()
        self._newcomers = None

    def _submit(self, request_ids: list[str]) -> tuple[str, ...]:
        for request_id in request_ids:
            self._records[request_id].submitted = True
        return tuple(request_ids)
