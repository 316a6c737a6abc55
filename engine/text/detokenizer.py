"""Token ids to text, a few at a time, without ever showing half a character.

A token is bytes; characters are complete when their bytes are. What is incomplete waits for the next token, what is
proven not to be UTF-8 becomes U+FFFD, and what is incomplete at the end is dropped. Whatever the chunking, the pieces
joined are the same text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import cast

from engine.text.tokenizer import Tokenizer

_MAX_LEAD_BYTES = 3
"""An unfinished character has at most this many bytes."""


class _Texts(dict[int, str | None]):
    """Text of each token alone, filled on first use; None for a token whose bytes are no whole characters."""

    def __init__(self, tokenizer: Tokenizer, skip: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.skip = skip

    def __missing__(self, token_id: int) -> str | None:
        text: str | None = ""
        if token_id not in self.skip:
            try:
                text = self.tokenizer.token_bytes(token_id).decode()
            except UnicodeDecodeError:
                text = None
        if 0 <= token_id < self.tokenizer.vocab_size:
            self[token_id] = text
        return text


def _texts(tokenizer: Tokenizer, skip: frozenset[int]) -> _Texts:
    table = tokenizer.text_tables.get(skip)
    if not isinstance(table, _Texts):
        table = tokenizer.text_tables[skip] = _Texts(tokenizer, skip)
    return table


class Detokenizer:
    """One sequence's decoder. Constant time a token."""

    __slots__ = ("_decoder", "_texts")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        keep_ids: frozenset[int] = frozenset(),
        prompt_token_ids: Sequence[int] = (),
    ) -> None:
        """`keep_ids` are shown even when special. A character begun by the prompt's last tokens is finished here."""
        skip = tokenizer.special_ids - keep_ids if skip_special_tokens else frozenset[int]()
        self._texts = _texts(tokenizer, skip)
        self._decoder: codecs.IncrementalDecoder | None = None
        lead = _unfinished(b"".join([tokenizer.token_bytes(i) for i in prompt_token_ids[-_MAX_LEAD_BYTES:]]))
        if lead:
            self._decode_bytes(lead)

    def feed(self, token_ids: Sequence[int]) -> str:
        """Text that these tokens complete."""
        if len(token_ids) == 1:
            return self.feed_one(token_ids[0])
        if self._decoder is None:
            texts = self._texts
            parts = [texts[token_id] for token_id in token_ids]
            if None not in parts:
                return "".join(cast("list[str]", parts))
        return "".join([self.feed_one(token_id) for token_id in token_ids])

    def feed_one(self, token_id: int) -> str:
        """Text that this token completes; "" while a character is unfinished."""
        text = self._texts[token_id]
        if self._decoder is None and text is not None:
            return text
        if text == "":
            return ""
        return self._decode_bytes(self._texts.tokenizer.token_bytes(token_id))

    def _decode_bytes(self, data: bytes) -> str:
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._decoder.decode(data)
        if not self._decoder.getstate()[0]:
            self._decoder = None
        return text


def _unfinished(data: bytes) -> bytes:
    """The unfinished character at the end of some bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return decoder.getstate()[0]
