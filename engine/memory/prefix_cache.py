"""Which full blocks of tokens have their keys and values in memory already.

A block's key hashes its parent's key and its own tokens, so equal keys mean equal prefixes; the first parent is the
salt. Hash chains over full blocks are vLLM's automatic prefix caching; comparing the tokens on every hit, so that
even a hash collision cannot mix two conversations, is nano-vllm's habit.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections.abc import Sequence as Seq

import msgspec

from engine.memory.block_pool import BlockPool

KEY_BYTES = 16
_TOKEN_TYPECODE = "i"
_TOKEN_BYTES = array(_TOKEN_TYPECODE).itemsize


class CachedBlock(msgspec.Struct, frozen=True, gc=False):
    """Where a key's content lies; stale once the pool has handed the block out again."""

    block: int
    generation: int
    tokens: bytes


class PrefixCache:
    """Keys to blocks. The pool evicts, least recently used first; stale notes are seen and dropped here."""

    def __init__(self, pool: BlockPool, block_size: int, secret: bytes | None = None) -> None:
        self._pool = pool
        self._block_size = block_size
        self._secret = secret or secrets.token_bytes(32)  # a client must not be able to aim at a collision
        self._blocks: dict[bytes, CachedBlock] = {}
        self._key_of: dict[int, bytes] = {}

    def extend_keys(self, keys: list[bytes], token_ids: Seq[int], num_blocks: int, salt: str) -> None:
        """Continue a chain of keys until it covers the first `num_blocks` full blocks of `token_ids`."""
        size = self._block_size
        while len(keys) < num_blocks:
            start = len(keys) * size
            parent = keys[-1] if keys else self._digest(salt.encode(), b"salt")
            keys.append(self._digest(parent + _pack(token_ids[start : start + size]), b"block"))

    def match(self, keys: Seq[bytes], token_ids: Seq[int], num_blocks: int) -> list[int]:
        """Blocks that hold the longest known prefix, at most the first `num_blocks`. Nothing is referenced yet."""
        packed = b""
        width = self._block_size * _TOKEN_BYTES
        found: list[int] = []
        for index in range(num_blocks):
            entry = self._blocks.get(keys[index])
            if entry is None or self._pool.generations[entry.block] != entry.generation:
                break
            packed = packed or _pack(token_ids[: num_blocks * self._block_size])
            if entry.tokens != packed[index * width : (index + 1) * width]:
                break
            found.append(entry.block)
        return found

    def publish(self, key: bytes, block: int, tokens: Seq[int]) -> None:
        """The used block's keys and values of these tokens are computed. The first block of a key stays its block."""
        known = self._blocks.get(key)
        if known is not None and self._pool.generations[known.block] == known.generation:
            return
        stale = self._blocks.get(self._key_of.get(block, b""))
        if stale is not None and stale.block == block:
            del self._blocks[self._key_of[block]]  # so there is at most one note a block
        self._blocks[key] = CachedBlock(block, self._pool.generations[block], _pack(tokens))
        self._key_of[block] = key
        self._pool.keep(block)

    def reset(self) -> None:
        """Forget everything; blocks in use stay with their sequences."""
        self._blocks.clear()
        self._key_of.clear()
        self._pool.forget_contents()

    def contents(self) -> dict[int, bytes]:
        """Packed tokens of every block that a key finds now; for checks."""
        live = (e for e in self._blocks.values() if self._pool.generations[e.block] == e.generation)
        return {entry.block: entry.tokens for entry in live}

    def _digest(self, content: bytes, domain: bytes) -> bytes:
        return hashlib.blake2b(content, digest_size=KEY_BYTES, key=self._secret, person=domain).digest()


def _pack(token_ids: Seq[int]) -> bytes:
    return array(_TOKEN_TYPECODE, token_ids).tobytes()
