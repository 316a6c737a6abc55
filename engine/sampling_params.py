"""How one sequence is sampled. Frozen, and plain data, so that it crosses processes as msgpack."""

from __future__ import annotations

import msgspec

GREEDY_EPSILON = 1e-5
"""Temperatures below this are greedy, as in vLLM."""


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sampling of one sequence. Ranges are checked once, at the front (adapters); the engine trusts them.

    Order of operations on the float32 logits of a position: logit_bias, allowed_token_ids, bad_words, grammar mask,
    min_tokens (stop ids masked), repetition/presence/frequency penalties, temperature, top_k, top_p, min_p,
    Gumbel noise, argmax. Logprobs are of the raw distribution (log_softmax of the unmodified logits).
    """

    max_tokens: int = 16
    temperature: float = 1.0
    """Below GREEDY_EPSILON: greedy, and top_k, top_p, min_p are not used."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 or -1 is off."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose mass reaches top_p; the token that crosses it is kept."""
    min_p: float = 0.0
    """Drop tokens less likely than min_p times the most likely one."""
    repetition_penalty: float = 1.0
    """Over prompt and output: positive logits are divided by it, negative ones multiplied."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Presence and frequency penalties count generated tokens only."""
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] = ()
    """Empty: every token is allowed."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences; the last token of one is not sampled where the output ends with the others."""
    min_tokens: int = 0
    """Stop ids (and eos) cannot be sampled before this many tokens."""
    eos_token_ids: tuple[int, ...] = ()
    """The model's own end tokens, filled in by the adapter; empty when the request says ignore_eos."""
    stop_token_ids: tuple[int, ...] = ()
    """The request's own stop ids; they end it also under ignore_eos."""
    seed: int | None = None
    """Noise is a function of (seed, position, token id). None: the adapter draws a seed for the request."""
    logprobs: int | None = None
    """None: off. k: the sampled token's logprob plus the k most likely ones."""
    prompt_logprobs: int | None = None
    """As `logprobs`, for every prompt position but the first; turns prefix-cache reads off."""

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_EPSILON

    @property
    def penalised(self) -> bool:
        """Whether logits depend on the counts of token ids so far."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def has_long_bad_words(self) -> bool:
        """Whether any has more than one token."""
        return bool(self.bad_words) and max(map(len, self.bad_words)) > 1
