"""Which requests go to a new engine, in which order, and which one is refused for killing engines. Pure logic.

After a death every request that was in a forward pass is a suspect. A token since the previous death clears it of
that one. A request without a token in two deaths in a row is refused if it is the only one; if there are several, the
next engine gets them one at a time, each after the one before has had a token, so that the guilty one is alone when
the third engine dies and the others are spared. Requests that no engine has begun yet come last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

MAX_DEATHS = 16
"""Deaths that any one request may live through, whatever it produced in between."""


@dataclass(slots=True)
class _Record:
    strikes: int = 0
    """Deaths in a row in which it was running, without a token between them."""
    deaths: int = 0
    submitted: bool = True
    progressed: bool = False
    """A token has come from the present (or, after a death, from the last) engine."""


class Recovery:
    """Every live request from its first submission to its end. Methods return the ids to submit (or refuse) now."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._held: deque[list[str]] = deque()
        self._newcomers: list[str] | None = None
        """The last group in `_held`, if it is of requests that came in meanwhile."""
        self._unproven: set[str] = set()
        """Submitted requests whose first token is awaited before the next group is let in."""

    def __len__(self) -> int:
        return len(self._records)

    @property
    def held(self) -> int:
        """Requests that are kept from the engine until others have had a token."""
        return sum(map(len, self._held))

    def add(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """New requests. Returns those to submit; while suspects are on trial, newcomers would blur the evidence."""
        on_trial = bool(self._held or self._unproven)
        for request_id in request_ids:
            self._records[request_id] = _Record(submitted=not on_trial)
        if not on_trial:
            return tuple(request_ids)
        if self._newcomers is None:
            self._newcomers = []
            self._held.append(self._newcomers)
        self._newcomers += request_ids
        return ()

    def progressed(self, request_id: str) -> tuple[str, ...]:
        """A token came. Returns requests to submit."""
        record = self._records.get(request_id)
        if record is None:
            return ()
        record.progressed = True
        return self._cleared(request_id)

    def remove(self, request_id: str) -> tuple[str, ...]:
        """It has ended. Returns requests to submit."""
        self._records.pop(request_id, None)
        return self._cleared(request_id)

    def engine_died(self, ran: Collection[str]) -> tuple[str, ...]:
        """`ran`: requests that were in a forward pass of this engine. Returns the requests to refuse."""
        guilty: list[str] = []
        worn_out: list[str] = []
        for request_id, record in self._records.items():
            if record.submitted and request_id in ran:
                record.strikes = 1 if record.progressed else record.strikes + 1
                record.deaths += 1
                if record.strikes >= 2:
                    guilty.append(request_id)
                elif record.deaths >= MAX_DEATHS:
                    worn_out.append(request_id)
            record.submitted = False
        self._reset()
        refused = (*guilty, *worn_out) if len(guilty) == 1 else tuple(worn_out)
        for request_id in refused:
            del self._records[request_id]
        return refused

    def engine_ready(self) -> tuple[str, ...]:
        """A new engine (or one that has forgotten us) takes requests. Returns those to submit first."""
        self._reset()
        proven: list[str] = []
        doubtful: list[str] = []
        suspects: list[str] = []
        untried: list[str] = []
        for request_id, record in self._records.items():
            if record.strikes >= 2:
                suspects.append(request_id)
            elif record.strikes == 1:
                (proven if record.progressed else doubtful).append(request_id)
            else:
                untried.append(request_id)
            record.progressed = False
            record.submitted = False
        self._held.extend(group for group in (proven, doubtful) if group)
        self._held.extend([request_id] for request_id in suspects)
        if untried:
            self._held.append(untried)
            self._newcomers = untried
        return self._next_groups()

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
