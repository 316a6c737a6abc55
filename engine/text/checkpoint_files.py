"""The small JSON files beside a checkpoint's weights, read without believing that they are there or well formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.models import fields


def read_json(path: Path) -> dict[str, Any]:
    """The file's object, {} when there is no such file. Raises ModelLoadError when it is no JSON object."""
    return fields.read_json(path) if path.is_file() else {}


def token_content(value: object) -> str:
    """A token named in tokenizer_config.json: a string, or {"content": string}; "" for none."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
