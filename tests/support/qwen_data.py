"""The anchor data beside the repository: tokenizers, chat templates and golden renders of the Qwen family."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from engine.text.tokenizer import Tokenizer, load_tokenizer

ROOT = Path(__file__).parents[2]


def qwen_data() -> Path:
    """The folder `../shared/qwen` beside the repository; the test is skipped when it is not there."""
    folder = ROOT.parent / "shared" / "qwen"
    if not folder.is_dir():
        pytest.skip("the Qwen anchor data is not beside the repository", allow_module_level=True)
    return folder


@functools.cache
def qwen_tokenizer(name: str) -> Tokenizer:
    """One of qwen1, qwen2.5, qwen3, qwen3.5-partial; loaded once a test run."""
    return load_tokenizer(qwen_data() / "tokenizers" / name)


@functools.cache
def golden(name: str) -> Any:
    """A file of golden/ by its stem."""
    return json.loads((qwen_data() / "golden" / f"{name}.json").read_text(encoding="utf-8"))


def qwen_template(name: str) -> str:
    """A chat template's source by its file's stem."""
    return (qwen_data() / "templates" / f"{name}.jinja").read_bytes().decode()
