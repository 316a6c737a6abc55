"""What goes into the engine, what it keeps per request, and what comes out."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from engine.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]
"""stop: an eos or stop id was sampled; length: max_tokens or the context is used up."""


class GrammarSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A grammar as text; compiled in the engine's process by `engine.sampling.grammar_mask`."""

    kind: Literal["json_schema", "json_object", "regex", "choice", "lark", "llguidance"]
    text: str
    """choice: a JSON list of strings; llguidance: grammars composed by the adapters."""
    param: str = "response_format"
    """The request's field that asked for it, for errors."""


class EngineRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sequence to generate (n choices are n of these). Crosses processes as msgpack."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    arrival_s: float = 0.0
    """time.monotonic() of the front when the request came in; comparable between processes of one host."""
    priority: int = 0
    """Smaller runs earlier; equal priorities follow the policy."""
    cache_salt: str = ""
    """Prefix-cache blocks are shared only between requests with the same salt."""
    resumed_token_ids: tuple[int, ...] = ()
    """Tokens this request had produced before the engine died: generation goes on after them."""
    grammar: GrammarSpec | None = None

    @property
    def needs_history(self) -> bool:
        """Whether the host must know all tokens before the next one is sampled. For penalties the device does."""
        return self.grammar is not None or self.sampling.has_long_bad_words


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Raw log-probabilities of one position (natural log)."""

    logprob: float
    rank: int
    """1 for the most likely token."""
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
    """The k most likely ids with their logprobs, most likely first; the sampled id may or may not be among them."""


class RequestFault(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An error that the request itself brought about, so that whoever sent it can mend it."""

    param: str | None = None
    """Its field, by the engine's name."""
    code: str | None = None


class RequestTimes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """On the clock of `EngineRequest.arrival_s`."""

    scheduled_s: float
    """When it left the queue, for the first time."""
    first_token_s: float


class RequestOutput(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one step added to one request. A step yields one list of these."""

    request_id: str
    token_ids: tuple[int, ...]
    """New tokens of this step: usually one, none for a chunk of prefill (then no output is sent) or an error."""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The id that ended it, for finish_reason stop."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One per new token when asked for."""
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    """With the first output when asked for: one per prompt token, None for the first."""
    cached_tokens: int = 0
    """Prompt tokens served from the prefix cache; with the first output."""
    error: str = ""
    """For finish_reason error: what went wrong, fit for the client."""
    fault: RequestFault | None = None
    """For finish_reason error: None when the engine is to blame."""
    times: RequestTimes | None = None
    """With the first output."""


class Phase(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Sequence:
    """The engine's own record of a request. Owned by the scheduler; the runner only reads it.

    Positions: token_ids[:num_computed] have keys and values in the cache (or will have when the launched
    steps are done); a row is in decode when exactly one token is not computed yet.
    """

    request: EngineRequest
    token_ids: list[int]
    """Prompt, then output as the host knows it."""
    num_prompt: int
    phase: Phase = Phase.WAITING
    num_computed: int = 0
    """Positions whose keys and values are written by steps launched so far."""
    num_in_flight: int = 0
    """Sampled tokens that launched steps will produce but the host has not seen (0 or 1)."""
    num_cached: int = 0
    """Prompt tokens taken from the prefix cache at the (first) admission; until then, what it would give."""
    block_table: list[int] = field(default_factory=list)
    """Physical block of each logical block; valid for positions < len(block_table) * block_size."""
    slot: int = -1
    """Row of the runner's persistent per-request buffers, 0 <= slot < max_num_seqs while running."""
    num_preemptions: int = 0
    finish_reason: FinishReason | None = None
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    number: int = 0
    """Counts the sequences of one engine in the order of their arrival."""
    max_length: int = 0
    """Prompt and output together never exceed this many tokens (max_tokens, context and memory)."""
    stop_ids: frozenset[int] = frozenset()
    """Every id that ends it: the model's and the request's own."""
    scheduled_s: float = 0.0
    """When it was admitted for the first time."""
    started: bool = False
    """Whether its first output was sent."""
    block_keys: list[bytes] = field(default_factory=list)
    """Prefix-cache keys of its first full blocks, computed when they are needed."""
    num_published: int = 0
    """How many of its first blocks the prefix cache has seen."""
    prepared: object = None
    """What the runner has made for it beforehand, which lives as long as it does."""

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def num_tokens(self) -> int:
        """Tokens there are or will be once the launched steps are collected."""
        return len(self.token_ids) + self.num_in_flight

    @property
    def num_output(self) -> int:
        return self.num_tokens - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        return self.num_tokens - self.num_computed


class EngineStats(msgspec.Struct, frozen=True):
    """A snapshot for gauges and counters. Counters only grow during one engine's life."""

    num_running: int = 0
    num_waiting: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    """Blocks held by live requests (cached but unreferenced blocks are free to take)."""
    kv_blocks_cached: int = 0
    kv_fragmentation: float = 0.0
    """Share of the slots in used blocks that hold no token, 0..1."""
    block_size: int = 0
    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    blocks_reused: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    requests_finished: int = 0
    requests_aborted: int = 0
    steps: int = 0
    tokens_per_s: float = 0.0
    """Generated tokens per second over the last few seconds."""
    policy: str = ""
    oldest_wait_s: float = 0.0
    """How long the oldest waiting request has waited; 0: none waits."""
    oldest_bypassed: int = 0
    """Admissions of younger requests while the oldest one waits."""
