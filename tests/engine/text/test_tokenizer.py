from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from engine.errors import ModelLoadError
from engine.text.end_tokens import end_token_ids
from engine.text.tokenizer import byte_level_bytes, load_tokenizer
from tests.support.qwen_data import golden, qwen_data, qwen_tokenizer

SHARED_VOCABULARY = ("qwen1", "qwen2.5", "qwen3")


@pytest.mark.parametrize("name", SHARED_VOCABULARY)
@pytest.mark.parametrize("file", ["bpe_llamacpp_qwen2", "bpe_transformers_qwen2_test"])
def test_plain_text_has_the_published_ids(name: str, file: str) -> None:
    tokenizer = qwen_tokenizer(name)
    for vector in golden(file)["vectors"]:
        assert tokenizer.encode(vector["text"]) == vector["ids"]


@pytest.mark.parametrize("name", SHARED_VOCABULARY)
def test_mixed_text_with_control_tokens(name: str) -> None:
    tokenizer = qwen_tokenizer(name)
    for vector in golden("encode_mixed")["vectors"]:
        assert tokenizer.encode(vector["text"], control_tokens=True) == vector[name], vector["text"]


def test_the_qwen35_split_keeps_marks_with_their_letters(tmp_path: Path) -> None:
    """The Qwen3.5 regex over the Qwen2 vocabulary, as the golden file was made (without NFC, unlike Qwen's files)."""
    expected = golden("bpe_llamacpp_qwen35_regex_on_qwen2_vocab")
    spec = json.loads((qwen_data() / "tokenizers/qwen2.5/tokenizer.json").read_text(encoding="utf-8"))
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = expected["regex"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    vectors = [v for v in expected["vectors"] if unicodedata.is_normalized("NFC", v["text"])]
    assert len(vectors) > 40
    assert [tokenizer.encode(v["text"]) for v in vectors] == [v["ids"] for v in vectors]


def test_the_published_note_on_injection() -> None:
    for vector in golden("published_tokenization_note")["vectors"]:
        tokenizer = qwen_tokenizer(vector.get("tokenizer", "qwen2.5"))
        if vector["allowed_special"] == "all":
            assert tokenizer.encode(vector["text"], control_tokens=True) == vector["ids"]
        elif not vector["allowed_special"]:
            assert tokenizer.encode(vector["text"]) == vector["ids"]
    for case in golden("published_tokenization_note")["decode"]:
        assert qwen_tokenizer("qwen1").decode(case["ids"]) == case["text"]


@pytest.mark.parametrize("name", [*SHARED_VOCABULARY, "qwen3.5-partial"])
def test_typed_control_tokens_stay_text(name: str) -> None:
    tokenizer = qwen_tokenizer(name)
    text = "a<|im_end|>\n<|im_start|>system\nb<|endoftext|>"
    plain = tokenizer.encode(text)
    assert not tokenizer.special_ids.intersection(plain)
    assert tokenizer.decode(plain) == text
    marked = tokenizer.encode(text, control_tokens=True)
    assert len(tokenizer.special_ids.intersection(marked)) == 3
    assert tokenizer.decode(marked) == text
    assert tokenizer.decode(marked, skip_special_tokens=True) == "a\nsystem\nb"


def test_control_tokens_that_the_file_does_not_mark_special() -> None:
    """Fill-in-the-middle tokens are not special in Qwen's files, yet a user's text must not become one."""
    tokenizer = qwen_tokenizer("qwen2.5")
    middle = tokenizer.added_tokens["<|fim_middle|>"]
    assert middle not in tokenizer.encode("<|fim_middle|>")
    assert tokenizer.encode("<|fim_middle|>", control_tokens=True) == [middle]
    assert tokenizer.decode([middle], skip_special_tokens=True) == "<|fim_middle|>"


def test_think_tags_are_tokens_in_any_text() -> None:
    tokenizer = qwen_tokenizer("qwen3")
    assert tokenizer.encode("<think>") == [151667]
    assert tokenizer.token_id("</think>") == 151668
    assert tokenizer.token_id("<nothing>") is None


def test_unknown_ids_decode_to_nothing() -> None:
    tokenizer = qwen_tokenizer("qwen3")
    assert tokenizer.vocab_size == 151669
    for token_id in (151669, 151935, 10**12, -1):
        assert tokenizer.token_bytes(token_id) == b""
        assert tokenizer.decode([9707, token_id]) == "Hello"


def test_bytes_of_every_single_byte_token() -> None:
    tokenizer = qwen_tokenizer("qwen2.5")
    assert sorted(tokenizer.token_bytes(i) for i in range(256)) == [bytes([i]) for i in range(256)]
    assert tokenizer.token_bytes(51461) == b" \xe6\xa0"
    assert tokenizer.longest_token == max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size))
    assert tokenizer.token_text(51461) == " \\xe6\\xa0"
    assert byte_level_bytes("Ġ你") == "Ġ你".encode()


@pytest.mark.parametrize("name", ["qwen1", "qwen3"])
def test_lone_surrogates_do_not_raise(name: str) -> None:
    assert qwen_tokenizer(name).encode("a\ud800b") == qwen_tokenizer(name).encode("a�b")


def test_both_files_of_the_same_vocabulary_agree_on_bytes() -> None:
    old, new = qwen_tokenizer("qwen1"), qwen_tokenizer("qwen3")
    assert all(old.token_bytes(i) == new.token_bytes(i) for i in range(0, 151643, 37))


def test_end_tokens_are_the_union_of_what_the_files_say(tmp_path: Path) -> None:
    tokenizer = qwen_tokenizer("qwen3")
    assert tokenizer.eos_token_id == 151645
    (tmp_path / "config.json").write_text('{"eos_token_id": 7, "text_config": {"eos_token_id": [8, 9]}}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [151645, 151643]}')
    assert end_token_ids(tmp_path, tokenizer) == (151645, 151643, 7, 8, 9)


def test_qwen1_chat_ends_where_a_turn_ends(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen"}')
    (tmp_path / "generation_config.json").write_text('{"chat_format": "chatml", "eos_token_id": 151643}')
    assert end_token_ids(tmp_path, qwen_tokenizer("qwen1")) == (151645, 151644, 151643)
    (tmp_path / "generation_config.json").write_text('{"chat_format": "raw", "eos_token_id": 151643}')
    assert end_token_ids(tmp_path, qwen_tokenizer("qwen1")) == (151643,)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", b"{"), ("tokenizer.json", b"\xff"), ("qwen.tiktoken", b"!!! x"), ("qwen.tiktoken", b"")],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelLoadError, match=name):
        load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json or qwen\.tiktoken"):
        load_tokenizer(tmp_path)
