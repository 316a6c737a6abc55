"""Which tokens a grammar allows next, as a bit mask for the sampler.

A matcher follows the tokens of one sequence. llguidance computes masks on the CPU (microseconds at most positions, a
millisecond at some), so that they can be made while the device runs the forward pass.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakValueDictionary

import llguidance
import numpy as np
import torch

from engine.errors import RequestError
from engine.request import GrammarSpec
from engine.text.grammar_source import LIMITS, grammar_source, is_panic
from engine.text.tokenizer import Tokenizer

Result = TypeVar("Result")

MAX_KEPT = 64
MAX_KEPT_CHARS = 256 << 10
"""Of compiled grammars' sources. A matcher takes some hundred times its source."""
MAX_COST_S = 1.0
MAX_COST_PER_MASK_S = 0.002
"""What following one grammar may take: so long at once, and so long for each mask on average. An ambiguous grammar
takes a hundred times that, and meanwhile nobody gets a token."""


class GrammarCompiler:
    """Makes matchers for one vocabulary. The vocabulary's trie is built with the first grammar (about a second).

    The last grammars are kept: the choices of one request have the same, and so have many requests.
    """

    def __init__(self, tokenizer: Tokenizer, end_token_ids: Sequence[int]) -> None:
        """A finished grammar allows the end tokens and nothing else."""
        self._tokenizer = tokenizer
        self._end_ids = tuple(end_token_ids)
        self._lock = threading.Lock()
        self._trie_lock = threading.Lock()
        self._trie: llguidance.LLTokenizer | None = None
        self._fresh: OrderedDict[tuple[str, str], CompiledGrammar] = OrderedDict()
        """By kind and text; the latest last."""
        self._living: WeakValueDictionary[tuple[str, str], CompiledGrammar] = WeakValueDictionary()
        """Those and what somebody else keeps."""
        self._kept_chars = 0

    def warm(self) -> llguidance.LLTokenizer:
        """Build the trie now. Even from a thread it holds up the others for most of the time."""
        with self._trie_lock:
            if self._trie is None:
                self._trie = _build_trie(self._tokenizer, self._end_ids)
            return self._trie

    def start(self, spec: GrammarSpec) -> GrammarState:
        """The state before a sequence's first token. Raises RequestError when the grammar is none."""
        grammar = self.compiled(spec)
        return GrammarState(_guarded(grammar.matcher.deep_copy), grammar.cost)

    def known(self, spec: GrammarSpec) -> CompiledGrammar | None:
        """If it need not be compiled. As long as the caller keeps it, `start` takes no time."""
        key = (spec.kind, spec.text)
        with self._lock:
            if key in self._fresh:
                self._fresh.move_to_end(key)
            return self._living.get(key)

    def compiled(self, spec: GrammarSpec) -> CompiledGrammar:
        """Known, or compiled now: the interpreter is free meanwhile, and so are other grammars. Raises as `start`."""
        if (grammar := self.known(spec)) is not None:
            return grammar
        trie = self.warm()
        made = CompiledGrammar(_guarded(lambda: _matcher(trie, spec)))
        key = (spec.kind, spec.text)
        with self._lock:
            if key not in self._fresh:
                self._fresh[key] = self._living[key] = made
                self._kept_chars += len(spec.text)
            while len(self._fresh) > 1 and (len(self._fresh) > MAX_KEPT or self._kept_chars > MAX_KEPT_CHARS):
                (_, oldest), _ = self._fresh.popitem(last=False)
                self._kept_chars -= len(oldest)
            return made


class CompiledGrammar:
    """What all sequences of one grammar share."""

    __slots__ = ("__weakref__", "cost", "matcher")

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        """`matcher` stands before the first token, for good."""
        self.matcher = matcher
        self.cost = _Cost()


class _Cost:
    """Processor time that all sequences of one grammar together have taken."""

    __slots__ = ("_masks", "_spent_s")

    def __init__(self) -> None:
        self._spent_s = 0.0
        self._masks = 0

    def check(self) -> None:
        """Raises RequestError when it was too much."""
        if self._spent_s > MAX_COST_S + MAX_COST_PER_MASK_S * self._masks:
            raise RequestError("The grammar takes too long to follow.", "response_format")

    def add(self, began_s: float, masks: int) -> None:
        self._spent_s += time.thread_time() - began_s
        self._masks += masks


class GrammarState:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, cost: _Cost) -> None:
        self._matcher = matcher
        self._cost = cost

    def mask(self) -> torch.Tensor:
        """int32 [words]: bit i of word w is set where token 32 * w + i is allowed. Ids past the end are not.

        Raises RequestError when the grammar has come to a place where nothing is allowed, or takes too long.
        """
        self._cost.check()
        began_s = time.thread_time()
        words = np.frombuffer(_guarded(self._matcher.compute_bitmask), dtype=np.int32)
        self._cost.add(began_s, 1)
        self._check()
        if self._matcher.is_stopped() and not self._matcher.is_accepting():
            raise RequestError("The grammar allows nothing here; it cannot be satisfied.", "response_format")
        return torch.from_numpy(words.copy())

    def accept(self, token_id: int) -> None:
        """Go on behind this token. Raises RequestError when the grammar does not allow it."""
        began_s = time.thread_time()
        _guarded(lambda: self._matcher.consume_token(token_id))
        self._cost.add(began_s, 0)
        self._check()

    @property
    def finished(self) -> bool:
        """Nothing but an end token can follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            first_line = self._matcher.get_error().split("\n", 1)[0]
            if first_line == "NoExtensionBias":  # the library's name for an empty mask
                first_line = "it allows nothing here"
            raise RequestError(f"The grammar cannot be followed: {first_line}", "response_format")


def _matcher(trie: llguidance.LLTokenizer, spec: GrammarSpec) -> llguidance.LLMatcher:
    matcher = llguidance.LLMatcher(trie, grammar_source(spec), log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise RequestError(f"Invalid grammar: {matcher.get_error()}", "response_format")
    return matcher


def _guarded(call: Callable[[], Result]) -> Result:
    """A panic of the library costs this request, not the process."""
    try:
        return call()
    except BaseException as error:  # Rust's panics are no Exception
        if not is_panic(error):
            raise
        raise RequestError(
            "The grammar cannot be followed (the grammar library failed).", "response_format"
        ) from None


class _Vocabulary:
    """What llguidance wants to know of a tokenizer. Added tokens are apart: no text of a grammar contains one."""

    def __init__(self, tokenizer: Tokenizer, end_token_ids: Sequence[int]) -> None:
        self.eos_token_id = end_token_ids[0]
        self.bos_token_id = None
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(set(tokenizer.added_tokens.values()))
        self._special = frozenset(self.special_token_ids)
        self._byte_ids = {data: token_id for token_id, data in enumerate(self.tokens) if len(data) == 1}
        self._encode = tokenizer.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._exactly(text if isinstance(text, str) else text.decode("utf-8", "surrogateescape"))

    def _exactly(self, text: str) -> list[int]:
        """Ids that spell these bytes: a prompt's encoder may compose letters (NFC) or find an added token in them."""
        data = text.encode("utf-8", "surrogateescape")
        ids = self._encode(text)
        if b"".join(map(self.tokens.__getitem__, ids)) == data and self._special.isdisjoint(ids):
            return ids
        if len(text) == 1:
            return [self._byte_ids[bytes([byte])] for byte in data]
        half = len(text) // 2
        return self._exactly(text[:half]) + self._exactly(text[half:])


def _build_trie(tokenizer: Tokenizer, end_token_ids: Sequence[int]) -> llguidance.LLTokenizer:
    wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, end_token_ids))
    return llguidance.LLTokenizer(wrapper, eos_token=list(end_token_ids))
