"""The blocks of sequences: what admission takes, how tables grow, when blocks are shared, what an end gives back."""

from __future__ import annotations

from engine.memory.block_pool import BlockPool
from engine.memory.prefix_cache import PrefixCache
from engine.request import Sequence


class SequenceMemory:
    """Block tables over one pool and, if wanted, one prefix cache.

    A block is published for sharing when it is full, its tokens are known to the host and the step that wrote it
    has succeeded. The last token of a sequence is never matched: its logits have to be computed.
    """

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.block_size = block_size
        self.pool = BlockPool(num_blocks)
        self.cache = PrefixCache(self.pool, block_size) if enable_prefix_caching else None
        self._computing: dict[bytes, Sequence] = {}
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.blocks_reused = 0

    @property
    def capacity_tokens(self) -> int:
        return self.pool.num_usable * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def find_prefix(self, sequence: Sequence) -> list[int]:
        """Cached blocks this sequence could start from, not referenced yet."""
        if self.cache is None or (sequence.request.sampling.prompt_logprobs is not None and not sequence.started):
            return []
        num_blocks = (len(sequence.token_ids) - 1) // self.block_size
        self.cache.extend_keys(sequence.block_keys, sequence.token_ids, num_blocks, sequence.request.cache_salt)
        return self.cache.match(sequence.block_keys, sequence.token_ids, num_blocks)

    def awaited_key(self, sequence: Sequence, num_found: int) -> bytes | None:
        """The key of the next block it lacks, if a running sequence is about to publish it."""
        if num_found >= (len(sequence.token_ids) - 1) // self.block_size or num_found >= len(sequence.block_keys):
            return None
        key = sequence.block_keys[num_found]
        return key if key in self._computing else None

    def is_computing(self, key: bytes) -> bool:
        return key in self._computing

    def admit(self, sequence: Sequence, prefix: list[int], reserve: int) -> bool:
        """Share the prefix and take blocks for all known tokens, if `reserve` blocks stay available."""
        missing = self.blocks_for(len(sequence.token_ids)) - len(prefix)
        revived = sum(map(self.pool.is_idle, prefix))
        if self.pool.available - revived < missing + reserve:
            return False
        for block in prefix:
            self.pool.share(block)
        sequence.block_table = prefix + [self.pool.allocate() for _ in range(missing)]
        sequence.num_computed = len(prefix) * self.block_size
        sequence.num_published = len(prefix)
        self._count(sequence, len(prefix))
        if self.cache is not None:
            for key in sequence.block_keys[len(prefix) :]:
                self._computing.setdefault(key, sequence)
        return True

    def publish(self, sequence: Sequence, num_computed: int) -> None:
        """Positions below `num_computed` were written by steps that succeeded, and their tokens are known."""
        if self.cache is None:
            return
        num_full = num_computed // self.block_size
        keys, size = sequence.block_keys, self.block_size
        self.cache.extend_keys(keys, sequence.token_ids, num_full, sequence.request.cache_salt)
        for index in range(sequence.num_published, num_full):
            tokens = sequence.token_ids[index * size : (index + 1) * size]
            self.cache.publish(keys[index], sequence.block_table[index], tokens)
            if self._computing.get(keys[index]) is sequence:
                del self._computing[keys[index]]
        sequence.num_published = num_full

    def release(self, sequence: Sequence) -> None:
        """Take back everything; published blocks stay findable until they are needed."""
        if self._computing:
            for key in sequence.block_keys[sequence.num_published :]:
                if self._computing.get(key) is sequence:
                    del self._computing[key]
        self.pool.release(sequence.block_table)
        sequence.num_published = 0

    def reset_prefix_cache(self) -> None:
        if self.cache is not None:
            self.cache.reset()

    def _count(self, sequence: Sequence, num_shared: int) -> None:
        if self.cache is not None and sequence.num_preemptions == 0:
            self.queried_tokens += len(sequence.token_ids)
            self.hit_tokens += num_shared * self.block_size
        self.blocks_reused += num_shared
