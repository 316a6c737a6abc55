"""Train the demo model's tokenizer: `python -m training.tokenizer OUTPUT_FOLDER`."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from training.conversation import build
from training.rendering import segments

VOCABULARY = 6144
DOCUMENTS = 60_000
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pre-tokenizer of Qwen 1 to 3: one token a digit, so numbers are read column by column."""


def corpus(documents: int) -> Iterator[str]:
    """Training documents without the marker tokens, which are never merged."""
    for seed in range(documents):
        document = build(f"tokenizer-{seed}")
        if isinstance(document, str):
            yield document
            continue
        text = "".join(part for part, _ in segments(document))
        for marker in SPECIAL + MARKERS:
            text = text.replace(marker, "\n")
        yield text


def train(documents: int = DOCUMENTS, vocabulary: int = VOCABULARY) -> Tokenizer:
    """A byte-level BPE whose last nine ids are the special and marker tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(MARKERS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(documents), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS])
    return tokenizer


def settings(template: str) -> dict[str, object]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 2048,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "split_special_tokens": False,
        "chat_template": template,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer = train(arguments.documents)
    arguments.output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.output / "tokenizer.json"), pretty=False)
    template = (Path(__file__).parent / "chat_template.jinja").read_text()
    text = json.dumps(settings(template), indent=2, ensure_ascii=False) + "\n"
    (arguments.output / "tokenizer_config.json").write_text(text)
    logging.info("%d tokens in %s", tokenizer.get_vocab_size(), arguments.output)


if __name__ == "__main__":
    main()
