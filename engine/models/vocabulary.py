"""How many ids the tokenizer knows: the embedding's last rows are padding that must never be sampled."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.errors import ModelLoadError

QWEN1_CONTROL_TOKENS = 208
"""Qwen 1 puts <|endoftext|>, <|im_start|>, <|im_end|> and 205 spares behind the ranks of qwen.tiktoken."""


class _AddedToken(msgspec.Struct):
    id: int


class _Vocabulary(msgspec.Struct):
    vocab: dict[str, int] = {}


class _TokenizerFile(msgspec.Struct):
    model: _Vocabulary
    added_tokens: list[_AddedToken] = []


def tokenizer_size(folder: str | Path) -> int | None:
    """One more than the highest id of tokenizer.json or qwen.tiktoken; None where the folder has neither.

    Raises ModelLoadError for a file that cannot be read.
    """
    file, ranks = Path(folder) / "tokenizer.json", Path(folder) / "qwen.tiktoken"
    try:
        if file.exists():
            content = msgspec.json.decode(file.read_bytes(), type=_TokenizerFile)
            ids = [*content.model.vocab.values(), *(token.id for token in content.added_tokens)]
            return max(ids) + 1 if ids else None
        if ranks.exists():
            return sum(1 for line in ranks.read_bytes().splitlines() if line.strip()) + QWEN1_CONTROL_TOKENS
    except (OSError, msgspec.DecodeError) as error:
        raise ModelLoadError(f"{file if file.exists() else ranks}: cannot be read: {error}") from error
    return None
