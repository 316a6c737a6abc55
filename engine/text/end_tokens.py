"""Which ids end a reply. No single file of a checkpoint says it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.text.checkpoint_files import read_json
from engine.text.tokenizer import Tokenizer


def end_token_ids(folder: str | Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Union of what tokenizer_config, generation_config and config (its text_config too) name, the tokenizer's first.

    Qwen 1 chat names only <|endoftext|> but ends its turns with <|im_end|> or a new <|im_start|>.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    generation = read_json(folder / "generation_config.json")
    text_config = config.get("text_config")
    found = [tokenizer.eos_token_id, *_ids(generation), *_ids(config)]
    found += _ids(text_config) if isinstance(text_config, dict) else []
    if config.get("model_type") == "qwen" and generation.get("chat_format") == "chatml":
        found = [tokenizer.token_id("<|im_end|>"), tokenizer.token_id("<|im_start|>"), *found]
    return tuple(dict.fromkeys(token_id for token_id in found if token_id is not None))


def _ids(config: dict[str, Any]) -> list[int]:
    value = config.get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool) and item >= 0]
