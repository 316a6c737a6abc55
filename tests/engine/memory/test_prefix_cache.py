"""Prefix cache: what it finds is what was published, under the same salt, and never a stale block."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.memory.block_pool import BlockPool
from engine.memory.prefix_cache import CachedBlock, PrefixCache
from engine.memory.sequence_memory import SequenceMemory
from engine.request import EngineRequest, Sequence
from engine.sampling_params import SamplingParams

SIZE = 2


def make_sequence(tokens: list[int], salt: str = "", **sampling: int) -> Sequence:
    request = EngineRequest("r", tuple(tokens), SamplingParams(**sampling), cache_salt=salt)
    return Sequence(request, list(tokens), len(tokens))


class PrefixCacheMachine(RuleBasedStateMachine):
    """Sequences come, publish and go over too small a pool; a block's content is modelled as (salt, prefix)."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = SequenceMemory(num_blocks=10, block_size=SIZE, enable_prefix_caching=True)
        self.live: list[Sequence] = []
        self.contents: dict[int, tuple[str, tuple[int, ...]]] = {}

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9), salt=st.sampled_from(["", "a"]))
    def admit(self, tokens: list[int], salt: str) -> None:
        sequence = make_sequence(tokens, salt)
        prefix = self.memory.find_prefix(sequence)
        assert len(prefix) * SIZE < len(tokens)  # at least one token is computed
        for index, block in enumerate(prefix):
            assert self.contents[block] == (salt, tuple(tokens[: (index + 1) * SIZE]))
        if not self.memory.admit(sequence, prefix, reserve=0):
            assert sequence.block_table == []
            return
        assert sequence.block_table[: len(prefix)] == prefix
        assert len(sequence.block_table) == -(-len(tokens) // SIZE)
        for index in range(len(prefix), len(sequence.block_table)):
            self.contents[sequence.block_table[index]] = (salt, tuple(tokens[: (index + 1) * SIZE]))
        self.live.append(sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        is_first = sequence.num_published == 0
        computed = data.draw(st.integers(sequence.num_published * SIZE, len(sequence.token_ids)))
        self.memory.publish(sequence, computed)
        again = make_sequence([*sequence.token_ids, 0], sequence.request.cache_salt)
        if is_first:  # later the first publisher's block may be gone while this one's equal block was never noted
            assert len(self.memory.find_prefix(again)) >= computed // SIZE

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        sequence = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.memory.release(sequence)

    @rule()
    def reset(self) -> None:
        self.memory.reset_prefix_cache()
        assert self.memory.pool.idle == 0

    @invariant()
    def books_balance(self) -> None:
        self.memory.pool.check([sequence.block_table for sequence in self.live])
        assert self.memory.cache is not None
        assert len(self.memory.cache.contents()) <= self.memory.pool.num_usable


TestPrefixCache = PrefixCacheMachine.TestCase
TestPrefixCache.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_the_last_token_is_never_matched() -> None:
    memory = SequenceMemory(10, SIZE, enable_prefix_caching=True)
    first = make_sequence([1, 2, 3, 4])
    memory.admit(first, memory.find_prefix(first), 0)
    memory.publish(first, 4)
    assert len(memory.find_prefix(make_sequence([1, 2, 3, 4]))) == 1
    assert len(memory.find_prefix(make_sequence([1, 2, 3, 4, 5]))) == 2


def test_prompt_logprobs_read_nothing() -> None:
    memory = SequenceMemory(10, SIZE, enable_prefix_caching=True)
    first = make_sequence([1, 2, 3, 4])
    memory.admit(first, [], 0)
    memory.publish(first, 4)
    assert memory.find_prefix(make_sequence([1, 2, 3, 4], prompt_logprobs=0)) == []


def test_tokens_are_compared_on_a_hit() -> None:
    pool = BlockPool(4)
    cache = PrefixCache(pool, SIZE)
    keys: list[bytes] = []
    cache.extend_keys(keys, [1, 2], 1, "")
    block = pool.allocate()
    cache.publish(keys[0], block, [1, 2])
    assert cache.match(keys, [1, 2, 3], 1) == [block]
    assert cache.match(keys, [2, 1, 3], 1) == []  # as if two prefixes had one hash


def test_keys_are_secret_salted_and_chained() -> None:
    pool = BlockPool(4)

    def chain(cache: PrefixCache, tokens: list[int], salt: str = "") -> list[bytes]:
        keys: list[bytes] = []
        cache.extend_keys(keys, tokens, len(tokens) // SIZE, salt)
        return keys

    one, two = PrefixCache(pool, SIZE), PrefixCache(pool, SIZE)
    assert chain(one, [1, 2]) != chain(two, [1, 2])
    assert chain(one, [1, 2], "a") != chain(one, [1, 2], "b")
    assert chain(one, [1, 2, 3, 4])[1] != chain(one, [9, 2, 3, 4])[1]
    assert chain(one, [1, 2, 3, 4]) == chain(one, [1, 2, 3, 4])


def test_a_reused_block_is_no_longer_found() -> None:
    pool = BlockPool(2)
    cache = PrefixCache(pool, SIZE)
    keys: list[bytes] = []
    cache.extend_keys(keys, [1, 2], 1, "")
    table = [pool.allocate()]
    cache.publish(keys[0], table[0], [1, 2])
    pool.release(table)
    assert cache.match(keys, [1, 2, 3], 1) == [1]
    assert pool.allocate() == 1
    assert cache.match(keys, [1, 2, 3], 1) == []
    assert cache.contents() == {}


def test_notes_stay_as_few_as_blocks() -> None:
    pool = BlockPool(3)
    cache = PrefixCache(pool, SIZE)
    for token in range(50):
        keys: list[bytes] = []
        cache.extend_keys(keys, [token, token], 1, "")
        table = [pool.allocate()]
        cache.publish(keys[0], table[0], [token, token])
        pool.release(table)
    assert len(cache._blocks) <= pool.num_usable


def test_cached_blocks_are_plain_data() -> None:
    assert CachedBlock(1, 2, b"x") == CachedBlock(1, 2, b"x")


def test_gauges_count_queries_and_hits() -> None:
    memory = SequenceMemory(10, SIZE, enable_prefix_caching=True)
    for _ in range(2):
        sequence = make_sequence([1, 2, 3, 4, 5])
        memory.admit(sequence, memory.find_prefix(sequence), 0)
        memory.publish(sequence, 5)
        memory.release(sequence)
    assert (memory.queried_tokens, memory.hit_tokens, memory.blocks_reused) == (10, 4, 2)
