"""Deterministic simulation of the engine: one seed is one whole history, faults included, replayed exactly.

Real: loop, scheduler, policies, memory, prefix cache. Scripted: the model, the clock, the clients, the supervisor.
Every stream is compared with the one the same request must give alone and undisturbed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.errors import RequestError
from engine.request import EngineRequest, GrammarSpec, RequestOutput
from engine.sampling_params import SamplingParams
from engine.scheduling import scheduler as scheduler_module
from engine.scheduling.policies import make_policy
from tests.simulation.bounded import WatchedShortestFirst
from tests.support.engine_invariants import check_cache, check_core, check_idle
from tests.support.scripted_runner import VOCAB, ScriptedRunner, expected_stream, require

MAX_MODEL_LEN = 32
DRAIN_STEPS = 3000


@dataclass
class Client:
    """What one client has seen of one request."""

    request: EngineRequest
    expected: list[int]
    expected_end: str
    tokens: list[int] = field(default_factory=list)
    end: str | None = None
    may_fail: bool = False
    first_since_resumed: bool = True

    def receive(self, output: RequestOutput) -> None:
        require(self.end is None, f"{output.request_id} got an output after its end")
        require(output.token_ids != () or output.finish_reason is not None, "an output says nothing")
        self.tokens += output.token_ids
        require(self.tokens == self.expected[: len(self.tokens)], f"{output.request_id} left its stream")
        if self.first_since_resumed and output.token_ids:
            self.first_since_resumed = False
            wanted = self.request.sampling.prompt_logprobs is not None
            ranks = [entry.rank for entry in output.prompt_logprobs if entry is not None]
            length = len(self.request.prompt_token_ids)
            require(ranks == (list(range(1, length)) if wanted else []), "prompt logprobs are not whole")
            require(0 <= output.cached_tokens < length + len(self.tokens), "more was cached than there is")
        self.end = output.finish_reason
        if self.end == "error":
            require(self.may_fail and output.error != "", f"{output.request_id} failed without a fault")
        elif self.end is not None:
            require(self.tokens == self.expected and self.end == self.expected_end, "a stream ended early or wrongly")
            require((output.stop_token_id is not None) == (self.end == "stop"), "the stop id is missing or invented")


class World:
    """One engine and its clients under one random generator."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.now = 0.0
        self.block_size = rng.choice([1, 2, 4, 8])
        self.num_blocks = 1 + rng.randint(-(-MAX_MODEL_LEN // self.block_size), 96 // self.block_size)
        self.max_num_seqs = rng.randint(1, 6)
        self.config = EngineConfig(
            model_path="",
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=max(self.max_num_seqs, rng.choice([6, 8, 16, 64])),
            policy=rng.choice(["sjf", "sjf", "fcfs", "aligned-sjf"]),
            enable_prefix_caching=rng.random() < 0.8,
        )
        self.reserve_tokens = rng.choice([0, 0, 4, 32])
        self.pipelined = rng.random() < 0.6
        self.rates = {name: rng.choice([0.0, rate, 2 * rate]) for name, rate in EVENT_RATES.items()}
        self.prefixes = [tuple(rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))) for _ in range(2)]
        self.clients: dict[str, Client] = {}
        self.live: set[str] = set()
        self.hogged: list[list[int]] = []
        self.engines = self.num_steps = 0
        self.received = self.refused = self.cancelled = 0
        self.start_engine()

    # ---- the supervised engine

    def start_engine(self) -> None:
        self.runner = ScriptedRunner(
            self.num_blocks,
            self.block_size,
            MAX_MODEL_LEN,
            self.max_num_seqs,
            self.config.max_num_batched_tokens,
            self.pipelined,
        )
        policy = WatchedShortestFirst() if self.config.policy == "sjf" else make_policy(self.config.policy)
        self.core = EngineCore(self.config, self.runner, policy, clock=lambda: self.now)
        if isinstance(policy, WatchedShortestFirst):
            policy.awaiting = self.core.scheduler._awaited.keys
        self.engines += 1
        self.received = self.refused = self.cancelled = 0
        self.hogged = []
        for request_id in sorted(self.live):
            client = self.clients[request_id]
            client.first_since_resumed = True
            fields = {name: getattr(client.request, name) for name in EngineRequest.__struct_fields__}
            self.submit(EngineRequest(**(fields | {"resumed_token_ids": tuple(client.tokens)})))

    def submit(self, request: EngineRequest) -> bool:
        try:
            self.core.add_request(request)
        except RequestError:
            return False
        self.received += 1
        return True

    # ---- events

    def event_submit(self) -> None:
        rng = self.random
        prompt = tuple(rng.randrange(VOCAB) for _ in range(rng.randint(1, 12)))
        if rng.random() < 0.6:
            prefix = rng.choice(self.prefixes)
            prompt = prefix[: rng.randint(1, len(prefix))] + prompt[: rng.randint(0, 4)]
        salt, priority = rng.choice(["", "", "key"]), rng.choice([0, 0, 0, 1, -1])
        for _ in range(rng.choice([1, 1, 1, 3])):  # n choices of one prompt
            request = EngineRequest(
                f"r{len(self.clients)}",
                prompt,
                self.draw_sampling(),
                arrival_s=self.now,
                priority=priority,
                cache_salt=salt,
                grammar=GrammarSpec("regex", ".*") if rng.random() < 0.05 else None,
            )
            client = Client(request, *expected_stream(request, MAX_MODEL_LEN))
            if self.submit(request):
                self.clients[request.request_id] = client
                self.live.add(request.request_id)
            else:
                self.refused += 1
                require(len(prompt) >= MAX_MODEL_LEN, "a request that fits was refused")

    def draw_sampling(self) -> SamplingParams:
        rng = self.random
        return SamplingParams(
            max_tokens=rng.choice([1, 2, 5, 9, 16, 100]),
            eos_token_ids=(0, 1) if rng.random() < 0.7 else (),
            stop_token_ids=(2,) if rng.random() < 0.3 else (),
            min_tokens=rng.choice([0, 0, 0, 1, 3]),
            seed=rng.randrange(1000),
            presence_penalty=0.5 if rng.random() < 0.04 else 0.0,
            bad_words=((VOCAB, VOCAB),) if rng.random() < 0.08 else (),
            logprobs=0 if rng.random() < 0.2 else None,
            prompt_logprobs=0 if rng.random() < 0.3 else None,
        )

    def event_cancel(self) -> None:
        if self.live:
            request_id = self.random.choice(sorted(self.live))
            held = self.core.scheduler.live.get(request_id)
            self.core.cancel(request_id)
            require(held is None or not held.block_table, "a cancelled request keeps blocks")
            self.live.discard(request_id)
            self.clients[request_id].end = "abort"
            self.cancelled += held is not None

    def event_hog(self) -> None:
        """Memory pressure: somebody else holds blocks for a while."""
        pool = self.core.memory.pool
        if pool.available:
            self.hogged.append([pool.allocate() for _ in range(self.random.randint(1, pool.available))])

    def event_relief(self) -> None:
        if self.hogged:
            self.core.memory.pool.release(self.hogged.pop(self.random.randrange(len(self.hogged))))
            self.hogged = [table for table in self.hogged if table]

    def event_launch_fault(self) -> None:
        self.runner.fail_launch = RuntimeError("injected: out of memory")

    def event_result_fault(self) -> None:
        self.runner.fail_result = RuntimeError("injected: device-side assert")

    def event_sampling_fault(self) -> None:
        if self.runner.pipelined:  # others sample within the launch
            self.runner.fail_sampling = RuntimeError("injected: out of memory")

    def event_row_fault(self) -> None:
        if self.live:
            request_id = self.random.choice(sorted(self.live))
            self.runner.fail_rows.add(request_id)
            self.clients[request_id].may_fail = True

    def event_cache_reset(self) -> None:
        self.core.reset_prefix_cache()

    def event_death(self) -> None:
        """The engine is gone, tokens in flight with it; the supervisor resubmits what clients still wait for."""
        self.start_engine()

    def event_clock_jump(self) -> None:
        self.now += self.random.choice([0.0, 1.0, 1e6])

    # ---- time

    def step(self) -> None:
        self.now += self.random.random() * 0.02
        if self.runner.fail_launch or self.runner.fail_sampling or self.runner.fail_result:
            for request_id in self.live:
                self.clients[request_id].may_fail = True
        outputs = self.core.step()
        for output in outputs:
            require(output.request_id in self.live, f"{output.request_id} got an output although it is over")
            client = self.clients[output.request_id]
            client.receive(output)
            if client.end is not None:
                self.live.discard(output.request_id)
        require(set(self.core.scheduler.live) <= self.live, "the engine runs what nobody waits for")
        check_core(self.core, self.runner, self.hogged)
        self.num_steps += 1
        if self.num_steps % 8 == 0:
            check_cache(self.core, self.runner)

    def run(self, num_steps: int) -> None:
        events = [name for name, rate in self.rates.items() if rate]
        for _ in range(num_steps):
            for name in events:
                if self.random.random() < self.rates[name]:
                    EVENTS[name](self)
                    check_core(self.core, self.runner, self.hogged)
            if self.core.has_work():
                self.step()
        while self.hogged:
            self.event_relief()
        for _ in range(DRAIN_STEPS):
            if not self.core.has_work():
                break
            self.step()
        self.check_end()

    def check_end(self) -> None:
        require(not self.core.has_work() and not self.live, f"requests never ended: {sorted(self.live)}")
        require(all(client.end is not None for client in self.clients.values()), "a client never got an end")
        check_idle(self.core, self.hogged)
        stats = self.core.stats()
        require(self.received == stats.requests_finished + stats.requests_aborted, "the counters do not balance")
        require(stats.requests_aborted == self.cancelled, "aborts are counted wrongly")


EVENT_RATES = {
    "submit": 0.2,
    "cancel": 0.03,
    "hog": 0.03,
    "relief": 0.06,
    "launch_fault": 0.005,
    "result_fault": 0.005,
    "sampling_fault": 0.003,
    "row_fault": 0.01,
    "cache_reset": 0.01,
    "death": 0.01,
    "clock_jump": 0.01,
}
EVENTS: dict[str, Callable[[World], None]] = {name: getattr(World, f"event_{name}") for name in EVENT_RATES}


@contextmanager
def growth_reserve(tokens: int) -> Iterator[None]:
    """With less of it, preemption storms."""
    before = scheduler_module.GROWTH_RESERVE_TOKENS
    scheduler_module.GROWTH_RESERVE_TOKENS = tokens
    try:
        yield
    finally:
        scheduler_module.GROWTH_RESERVE_TOKENS = before


def simulate(seed: int, num_steps: int = 30) -> World:
    """One history; raises InvariantError (or whatever broke) and names the seed."""
    world = World(seed)
    try:
        with growth_reserve(world.reserve_tokens):
            world.run(num_steps)
    except Exception as error:
        error.add_note(f"simulate({seed}, {num_steps}) replays this")
        raise
    return world
