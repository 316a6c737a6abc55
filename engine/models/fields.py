"""Checked reading of a JSON settings file: every error names the file, the field and what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import ModelLoadError

MAX_JSON_BYTES = 4 << 20
"""config.json and its neighbours are a few kilobytes; a weight index of a large model is under a megabyte."""


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in `path`. Raises ModelLoadError where there is none."""
    try:
        if path.stat().st_size > max_bytes:
            raise ModelLoadError(f"{path}: larger than {max_bytes} bytes, not a settings file")
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{path}: no such file; a checkpoint's folder holds config.json, a tokenizer and safetensors"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


class Fields:
    """A JSON object with typed, bounded getters. Several names are spellings of one field, the first found counts."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def fail(self, message: str) -> NoReturn:
        raise ModelLoadError(f"{self.path}: {message}")

    def raw(self, *names: str) -> Any:
        """The first spelling that is there and not null, else None."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def integer(self, *names: str, default: int | None = None, low: int = 1, high: int = 1 << 24) -> int:
        value = self.raw(*names)
        if value is None:
            value = default
        if value is None:
            self.fail(
                f"field {names[0]} is missing" + (f" (also looked for {', '.join(names[1:])})" * (len(names) > 1))
            )
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(f"field {names[0]} must be an integer in [{low}, {high}], found {value!r:.80}")
        return value

    def number(self, *names: str, default: float | None = None, low: float = 0.0, high: float = 1e12) -> float:
        value = self.raw(*names)
        if value is None:
            value = default
        if value is None:
            self.fail(f"field {names[0]} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(f"field {names[0]} must be a number in [{low:g}, {high:g}], found {value!r:.80}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(f"field {name} must be true or false, found {value!r:.80}")
        return value

    def section(self, *names: str) -> Fields:
        """A nested object as Fields; empty where it is missing."""
        value = self.raw(*names)
        if value is None:
            return Fields({}, self.path)
        if not isinstance(value, dict):
            self.fail(f"field {names[0]} must be an object, found {value!r:.80}")
        return Fields(value, self.path)
