"""Token ids of texts that come again: a conversation is sent whole with every turn, and only its end is new."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict

from engine.text.tokenizer import Tokenizer

MAX_CHARS = 2 << 20
"""About 2 MiB of ids and at most four times as much of text."""
MIN_TEXT_CHARS = 64
"""Shorter texts are encoded faster than they are remembered."""


class EncodeCache:
    """Least recently used texts of one tokenizer, bounded by their characters. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_chars: int = MAX_CHARS) -> None:
        self._tokenizer = tokenizer
        self._max_chars = max_chars
        self._chars = 0
        self._ids: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, text: str, salt: str = "") -> list[int]:
        """As Tokenizer.encode: control tokens in the text stay plain.

        Texts are shared within one salt only: how fast an answer comes tells nobody what others have asked.
        """
        if not MIN_TEXT_CHARS <= len(text) <= self._max_chars // 4:
            return self._tokenizer.encode(text)
        with self._lock:
            known = self._ids.get((salt, text))
            if known is not None:
                self._ids.move_to_end((salt, text))
                return known.tolist()
        token_ids = self._tokenizer.encode(text)
        with self._lock:
            if (salt, text) not in self._ids:
                self._ids[salt, text] = array("I", token_ids)
                self._chars += len(text)
            while self._chars > self._max_chars:
                (_, oldest), _ = self._ids.popitem(last=False)
                self._chars -= len(oldest)
        return token_ids

    def __len__(self) -> int:
        return len(self._ids)
