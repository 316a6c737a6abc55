"""Qwen 1's tokenizer: qwen.tiktoken (a base64 token and its rank a line) and 208 control tokens after it."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from pathlib import Path

from engine.errors import ModelLoadError
from engine.text.tokenizer import Tokenizer

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))


def load_qwen1_tokenizer(path: Path) -> Tokenizer:
    """Raises ModelLoadError when the file is damaged. The control tokens' ids follow the last rank."""
    import tiktoken

    ranks = _read_ranks(path)
    tokens = {rank: token for token, rank in ranks.items()}
    first_control = max(tokens) + 1
    added = {text: first_control + i for i, text in enumerate(CONTROL_TOKENS)}
    encoding = tiktoken.Encoding("qwen", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=added)

    def encode_ordinary(text: str) -> list[int]:
        return encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    return Tokenizer(encode_ordinary, tokens.get, first_control, lambda: max(map(len, ranks)), added, added, added)


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error) as error:
        raise ModelLoadError(f"{path.parent.name}/{path.name}: not a tiktoken file ({error})") from None
    if not ranks:
        raise ModelLoadError(f"{path.parent.name}/{path.name}: the file is empty")
    return ranks
