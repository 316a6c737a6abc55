"""Who is resubmitted when, and who is refused; by hand, and in random worlds with engines that die."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from adapters.recovery import MAX_DEATHS, STRIKES_AMONG_STRANGERS, Recovery


def recovery_with(*request_ids: str) -> Recovery:
    recovery = Recovery()
    assert recovery.add(request_ids) == request_ids
    return recovery


def test_everything_comes_back_at_once_after_a_first_death_in_mid_stream() -> None:
    recovery = recovery_with("a", "b", "c")
    for request_id in "abc":
        recovery.progressed(request_id)
    assert recovery.engine_died({"a", "b", "c"}) == ()
    assert recovery.engine_ready() == ("a", "b", "c")


def test_a_request_alone_is_refused_at_its_second_death_without_a_token() -> None:
    recovery = recovery_with("a")
    assert recovery.engine_died({"a"}) == ()
    assert recovery.engine_ready() == ("a",)
    assert recovery.engine_died({"a"}) == ("a",)
    assert len(recovery) == 0


def test_a_token_between_two_deaths_clears_a_request() -> None:
    recovery = recovery_with("a")
    for _ in range(3):
        assert recovery.engine_died({"a"}) == ()
        assert recovery.engine_ready() == ("a",)
        recovery.progressed("a")


def test_requests_that_were_only_waiting_are_never_blamed() -> None:
    recovery = recovery_with("a", "waiting")
    recovery.progressed("a")
    for _ in range(5):
        assert recovery.engine_died({"a"}) == ()
        assert recovery.engine_ready() == ("a",)
        assert recovery.progressed("a") == ("waiting",)


def test_the_newcomer_waits_until_the_proven_ones_run_again_and_is_then_found() -> None:
    recovery = recovery_with("old", "older", "new")
    recovery.progressed("old")
    recovery.progressed("older")
    assert recovery.engine_died({"old", "older", "new"}) == ()
    assert recovery.engine_ready() == ("old", "older")
    assert recovery.progressed("old") == ()
    assert recovery.progressed("older") == ("new",)
    assert recovery.engine_died({"old", "older", "new"}) == ()
    assert recovery.engine_ready() == ("new",)
    assert recovery.engine_died({"new"}) == ("new",)
    assert recovery.engine_ready() == ("old", "older")


def test_several_suspects_are_tried_one_at_a_time() -> None:
    recovery = recovery_with("a", "b", "c")
    recovery.engine_died({"a", "b", "c"})
    assert recovery.engine_ready() == ("a", "b", "c")
    assert recovery.engine_died({"a", "b", "c"}) == ()
    assert recovery.engine_ready() == ("a",)
    assert recovery.progressed("a") == ()
    assert recovery.progressed("a") == ("b",)
    assert recovery.engine_died({"a", "b"}) == ()
    assert recovery.engine_ready() == ("b",)
    assert recovery.engine_died({"b"}) == ("b",)
    assert recovery.engine_ready() == ("c",)
    assert recovery.remove("c") == ("a",)


def test_one_that_kills_after_a_token_costs_no_companion_of_its_trial() -> None:
    """It passes the start of each trial; another one is by itself when it is tried."""
    recovery = recovery_with("killer", "good")
    recovery.engine_died({"killer", "good"})
    recovery.engine_ready()
    recovery.engine_died({"killer", "good"})
    assert recovery.engine_ready() == ("killer",)
    assert recovery.progressed("killer") == ()
    assert recovery.engine_died({"killer"}) == ()
    assert recovery.engine_ready() == ("killer",)
    assert recovery.progressed("killer") == ()
    assert recovery.engine_died({"killer"}) == ("killer",)
    assert recovery.engine_ready() == ("good",)


def test_more_deaths_are_needed_where_strangers_were_present() -> None:
    """Requests of other HTTP processes that ran beside the trial."""
    recovery = recovery_with("a")
    for _ in range(STRIKES_AMONG_STRANGERS - 1):
        assert recovery.engine_died({"a", "x"}, strangers=True) == ()
        assert recovery.engine_ready() == ("a",)
    assert recovery.engine_died({"a", "x"}, strangers=True) == ("a",)


def test_newcomers_wait_while_suspects_are_on_trial() -> None:
    recovery = recovery_with("a", "b")
    recovery.engine_died({"a", "b"})
    recovery.engine_ready()
    recovery.engine_died({"a", "b"})
    assert recovery.engine_ready() == ("a",)
    assert recovery.add(["c"]) == ()
    assert recovery.add(["d", "e"]) == ()
    assert recovery.progressed("a") == ()
    assert recovery.progressed("a") == ("b",)
    assert recovery.progressed("b") == ()
    assert recovery.progressed("b") == ("c", "d", "e")
    assert recovery.add(["f"]) == ("f",)


def test_a_held_request_that_its_client_leaves_is_skipped() -> None:
    recovery = recovery_with("a", "b", "c")
    recovery.engine_died({"a", "b", "c"})
    recovery.engine_ready()
    recovery.engine_died({"a", "b", "c"})
    assert recovery.engine_ready() == ("a",)
    assert recovery.remove("b") == ()
    assert recovery.remove("a") == ("c",)


def test_no_request_lives_through_any_number_of_deaths() -> None:
    recovery = recovery_with("a")
    for death in range(1, MAX_DEATHS + 1):
        recovery.progressed("a")
        assert recovery.engine_died({"a"}) == (("a",) if death == MAX_DEATHS else ())
        recovery.engine_ready()


@dataclass
class World:
    """Engines that run a few requests at a time, and die of poison or by accident."""

    rng: random.Random
    num_slots: int
    poison: dict[str, int]
    """After how many tokens (all lives together) a request kills the engine."""
    venom: dict[str, int]
    """After how many tokens of each life a request kills the engine."""
    lengths: dict[str, int]
    tokens: dict[str, int] = field(default_factory=dict)
    tokens_here: dict[str, int] = field(default_factory=dict)
    engine: list[str] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    deaths: int = 0
    refused: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    recovery: Recovery = field(default_factory=Recovery)

    def submit(self, request_ids: tuple[str, ...]) -> None:
        assert not set(request_ids) & set(self.engine), "submitted twice"
        self.engine += request_ids

    def step(self) -> None:
        """One forward pass: all running requests get a token, unless one of them kills the engine first."""
        running = self.engine[: self.num_slots]
        self.ran.update(running)
        if any(self.tokens[r] >= self.poison.get(r, 1 << 30) for r in running) or any(
            self.tokens_here.get(r, 0) >= self.venom.get(r, 1 << 30) for r in running
        ):
            self.die()
            return
        for request_id in running:
            self.tokens[request_id] += 1
            self.tokens_here[request_id] = self.tokens_here.get(request_id, 0) + 1
            self.submit(self.recovery.progressed(request_id))
            if self.tokens[request_id] >= self.lengths[request_id]:
                self.leave(request_id, self.finished)

    def leave(self, request_id: str, record: list[str]) -> None:
        record.append(request_id)
        if request_id in self.engine:
            self.engine.remove(request_id)
        self.submit(self.recovery.remove(request_id))

    def die(self) -> None:
        self.deaths += 1
        self.engine.clear()
        self.tokens_here.clear()
        self.refused += self.recovery.engine_died(self.ran)
        self.ran.clear()
        self.submit(self.recovery.engine_ready())


@pytest.mark.parametrize("first_seed", range(0, 2000, 500))
def test_in_random_worlds_the_guilty_are_refused_and_the_innocent_finish(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 500):
        rng = random.Random(seed)
        names = [f"{i}" for i in range(rng.randint(1, 24))]
        bad = [name for name in names if rng.random() < 0.15]
        poison = {name: rng.choice((0, 0, 0, 1, 2, 5)) for name in bad}
        venom: dict[str, int] = {}
        if rng.random() < 0.3:
            venom = {name: rng.randint(1, 4) for name in bad[:2]}
            poison = {name: at for name, at in poison.items() if name not in venom}
        bad = [*poison, *venom]
        lengths = {name: rng.randint(40, 60) if name in venom else rng.randint(6, 12) for name in names}
        world = World(rng, rng.choice((1, 3, 64)), poison, venom, lengths)
        left: list[str] = []
        arriving = list(names)
        for _ in range(2000):
            if arriving and rng.random() < 0.4:
                name = arriving.pop()
                world.tokens[name] = 0
                world.submit(world.recovery.add([name]))
            elif rng.random() < 0.02 and len(world.recovery):
                live = [n for n in world.tokens if n not in (*world.finished, *world.refused, *left)]
                world.leave(rng.choice(live), left)
            world.step()
            if not arriving and not len(world.recovery):
                break
        gone = sorted(world.finished + world.refused + left)
        assert gone == sorted(names), f"seed {seed}: lost or answered twice"
        assert set(world.refused) <= set(bad), f"seed {seed}: an innocent was refused"
        assert not set(world.finished) & set(poison), f"seed {seed}"
        assert world.deaths <= 4 * len(poison) + 20 * len(venom), f"seed {seed}: {world.deaths} for {bad}"


@dataclass
class Fronts:
    """Several fronts over one engine, which take turns at their trials as `adapters.engine_link` has it."""

    rng: random.Random
    of: dict[str, int]
    poison: dict[str, int]
    lengths: dict[str, int]
    recoveries: list[Recovery] = field(default_factory=lambda: [Recovery(), Recovery(), Recovery()])
    engine: list[str] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    tokens: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    begun: set[int] = field(default_factory=lambda: {0, 1, 2})
    gated: set[int] = field(default_factory=set)
    announced: set[int] = field(default_factory=set)
    turn: int | None = None
    deaths: int = 0

    def arrive(self, name: str) -> None:
        self.tokens[name] = 0
        front = self.of[name]
        ids = self.recoveries[front].add([name])
        self.submit(ids if front in self.begun else ())

    def submit(self, ids: tuple[str, ...]) -> None:
        assert not set(ids) & set(self.engine), "submitted twice"
        self.engine += ids

    def coordinate(self) -> None:
        for front in self.rng.sample(range(3), 3):
            recovery = self.recoveries[front]
            if front not in self.begun:
                if recovery.has_trials and self.turn is None:
                    self.turn = front
                    self.begun.add(front)
                    self.submit(recovery.engine_ready(gate_closed=True))
                elif not recovery.has_trials:
                    self.begun.add(front)
                    assert recovery.engine_ready(gate_closed=True) == ()
                    self.gated.add(front)
            elif self.turn == front and not recovery.has_trials:
                self.turn = None
                self.announced.discard(front)
                self.gated.add(front)
            if front in self.gated and not self.announced - {front}:
                self.gated.discard(front)
                self.submit(recovery.open_gate())

    def step(self) -> None:
        self.coordinate()
        running = list(self.engine)
        self.ran.update(running)
        if any(self.tokens[name] >= self.poison.get(name, 1 << 30) for name in running):
            self.die()
            return
        for name in running:
            self.tokens[name] += 1
            self.submit(self.recoveries[self.of[name]].progressed(name))
            if self.tokens[name] >= self.lengths[name]:
                self.finished.append(name)
                self.engine.remove(name)
                self.submit(self.recoveries[self.of[name]].remove(name))

    def die(self) -> None:
        self.deaths += 1
        self.engine.clear()
        self.announced, self.begun, self.gated, self.turn = set(), set(), set(), None
        for front, recovery in enumerate(self.recoveries):
            strangers = any(self.of[name] != front for name in self.ran)
            self.refused += recovery.engine_died(self.ran, strangers)
            if recovery.has_trials:
                self.announced.add(front)
        self.ran.clear()


@pytest.mark.parametrize("first_seed", range(0, 1500, 500))
def test_fronts_that_share_an_engine_refuse_the_guilty_alone(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 500):
        rng = random.Random(seed)
        names = [f"{i}" for i in range(rng.randint(1, 20))]
        poison = {name: rng.choice((0, 0, 0, 1, 2, 5)) for name in names if rng.random() < 0.15}
        world = Fronts(
            rng, {name: rng.randrange(3) for name in names}, poison, {name: rng.randint(6, 12) for name in names}
        )
        arriving = list(names)
        for _ in range(3000):
            if arriving and rng.random() < 0.4:
                world.arrive(arriving.pop())
            world.step()
            if not arriving and not any(map(len, world.recoveries)):
                break
        assert sorted(world.finished + world.refused) == sorted(names), f"seed {seed}: lost or answered twice"
        assert set(world.refused) == set(poison), f"seed {seed}"
        assert world.deaths <= 8 * len(poison), f"seed {seed}: {world.deaths} deaths for {poison}"
