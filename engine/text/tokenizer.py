"""Text to token ids and back, over the files a checkpoint brings: tokenizer.json or Qwen 1's qwen.tiktoken.

Control tokens (`<|im_start|>` and its like) become ids only where the caller says that the text may hold them;
ordinary encoding leaves them as plain characters, so that nobody forges a turn by typing its markers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from engine.errors import ModelLoadError
from engine.text.checkpoint_files import read_json, token_content

_CONTROL_SHAPE = re.compile(r"<[|｜].*[|｜]>")
"""How Qwen and its distillates write control tokens, also where the file forgets to mark them special."""


class Tokenizer:
    """One vocabulary. Immutable after loading but for caches; safe to use from several threads.

    vocab_size: one more than the highest id. Ids at or above it, and holes, decode to nothing.
    """

    def __init__(
        self,
        encode_ordinary: Callable[[str], list[int]],
        base_bytes: Callable[[int], bytes | None],
        base_size: int,
        longest_base: Callable[[], int],
        added: Mapping[str, int],
        special: Iterable[str],
        control: Iterable[str],
    ) -> None:
        """`special` tokens can be skipped in output; `control` tokens (they and more) are text unless asked for.

        `encode_ordinary` must leave control tokens as plain text; `base_bytes` knows the ids below base_size, and
        `longest_base` how many bytes the longest of them has.
        """
        self._encode_ordinary = encode_ordinary
        self._base_bytes = base_bytes
        self.added_tokens: dict[str, int] = dict(added)
        self.control_tokens: dict[str, int] = {text: added[text] for text in control}
        self.special_ids = frozenset(added[text] for text in special)
        self.vocab_size = max([base_size, *(token_id + 1 for token_id in added.values())])
        self.eos_token_id: int | None = None
        self.bos_token_id: int | None = None
        self._added_bytes = {token_id: text.encode() for text, token_id in added.items()}
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        self._control = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
        self._longest_base = longest_base
        self.token_bytes: Callable[[int], bytes] = lru_cache(maxsize=1 << 18)(self._find_bytes)
        """Bytes of one token, b"" for an unknown id."""
        self.text_tables: dict[frozenset[int], dict[int, str | None]] = {}
        """The detokenizer's: text of each token alone, by the set of ids that are not shown."""

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token."""
        return max([self._longest_base(), *map(len, self._added_bytes.values())])

    def encode(self, text: str, *, control_tokens: bool = False) -> list[int]:
        """Token ids of a text and nothing else. With `control_tokens`, those in the text become their ids."""
        if not text:
            return []
        if self._control is None or not control_tokens:
            return self._encode_plain(text)
        parts = self._control.split(text)
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self.control_tokens[part])
            elif part:
                ids.extend(self._encode_plain(part))
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        try:
            return self._encode_ordinary(text)
        except (TypeError, UnicodeEncodeError):  # a lone surrogate has no UTF-8
            return self._encode_ordinary(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of the ids in one go; bytes that are no UTF-8 become U+FFFD."""
        skip = self.special_ids if skip_special_tokens else frozenset[int]()
        return b"".join([self.token_bytes(i) for i in token_ids if i not in skip]).decode("utf-8", "replace")

    def token_id(self, text: str) -> int | None:
        """Id of an added token such as `<think>`; None when there is no such token."""
        return self.added_tokens.get(text)

    def token_text(self, token_id: int) -> str:
        r"""The token alone as text; bytes that are no UTF-8 as \xNN."""
        return self.token_bytes(token_id).decode("utf-8", "backslashreplace")

    def _find_bytes(self, token_id: int) -> bytes:
        added = self._added_bytes.get(token_id)
        return added if added is not None else self._base_bytes(token_id) or b""


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder. tokenizer.json wins over qwen.tiktoken.

    Raises ModelLoadError when there is neither, or when the file is damaged.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        tokenizer = _from_tokenizer_json(folder / "tokenizer.json")
    elif (folder / "qwen.tiktoken").is_file():
        from engine.text.qwen1_tokenizer import load_qwen1_tokenizer

        tokenizer = load_qwen1_tokenizer(folder / "qwen.tiktoken")
    else:
        raise ModelLoadError(f"{folder.name}: no tokenizer; tokenizer.json or qwen.tiktoken is needed")
    names = read_json(folder / "tokenizer_config.json")
    tokenizer.eos_token_id = tokenizer.token_id(token_content(names.get("eos_token")))
    tokenizer.bos_token_id = tokenizer.token_id(token_content(names.get("bos_token")))
    return tokenizer


def _from_tokenizer_json(path: Path) -> Tokenizer:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as HFTokenizer

    try:
        backend = HFTokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise ModelLoadError(f"{path.parent.name}/{path.name}: {error}") from None
    added = {token.content: token_id for token_id, token in backend.get_added_tokens_decoder().items()}
    special = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
    unmarked = [text for text in added if text not in special and _CONTROL_SHAPE.fullmatch(text)]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in unmarked])
    backend.encode_special_tokens = True  # from here on control tokens in a text are plain characters
    backend.no_truncation()
    backend.no_padding()

    def encode_ordinary(text: str) -> list[int]:
        # Unlike `encode`, the batch call lets other threads run meanwhile: a large prompt takes seconds.
        ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def base_bytes(token_id: int) -> bytes | None:
        token = backend.id_to_token(token_id) if 0 <= token_id < 1 << 31 else None
        return None if token is None else byte_level_bytes(token)

    base_size = backend.get_vocab_size(with_added_tokens=False)

    def longest() -> int:  # a token is printed with one character a byte
        return max(map(len, backend.get_vocab(with_added_tokens=False)), default=1)

    return Tokenizer(encode_ordinary, base_bytes, base_size, longest, added, special, [*special, *unmarked])


def byte_level_bytes(token: str) -> bytes:
    """Bytes of a byte-level BPE token's printable spelling (GPT-2's byte alphabet)."""
    try:
        return bytes([_BYTE_OF[char] for char in token])
    except KeyError:
        return token.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's bijection: printable latin-1 stands for itself, the other bytes for U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in alphabet)
    return alphabet | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
