"""The small JSON files beside a checkpoint's weights, read without believing that they are there or well formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from engine.errors import ModelLoadError


def read_json(path: Path) -> dict[str, Any]:
    """The file's object, {} when there is no such file. Raises ModelLoadError when it is no JSON object."""
    if not path.is_file():
        return {}
    try:
        value = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ModelLoadError(f"{path.parent.name}/{path.name}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path.parent.name}/{path.name}: a JSON object is expected")
    return value


def token_content(value: object) -> str:
    """A token named in tokenizer_config.json: a string, or {"content": string}; "" for none."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
