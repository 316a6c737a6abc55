"""Sizes of the KV cache, and what the host may still give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import ConfigurationError
from engine.memory.host import available_bytes
from engine.memory.kv_layout import GIB, KvLayout, size_in_blocks

LAYOUT = KvLayout(num_layers=24, num_kv_heads=2, head_dim=64, block_size=32, dtype=torch.bfloat16)


def test_bytes_of_a_block() -> None:
    assert LAYOUT.block_nbytes == 2 * 24 * 32 * 2 * 64 * 2
    cache = LAYOUT.allocate(5, "cpu")
    assert cache.shape == (2, 24, 5, 32, 2, 64)
    assert cache.nbytes == 5 * LAYOUT.block_nbytes


def test_memory_or_need_whichever_is_less() -> None:
    assert size_in_blocks(LAYOUT, GIB, max_num_seqs=1, max_model_len=1000) == 32 + 1
    assert size_in_blocks(LAYOUT, GIB, max_num_seqs=10**6, max_model_len=1000) == GIB // LAYOUT.block_nbytes
    assert size_in_blocks(LAYOUT, 0, max_num_seqs=1, max_model_len=64, num_blocks=9) == 9


def test_too_little_says_what_would_fit() -> None:
    with pytest.raises(ConfigurationError, match="lower max_model_len to at most 96"):
        size_in_blocks(LAYOUT, 4 * LAYOUT.block_nbytes, 8, 97)
    with pytest.raises(ConfigurationError, match="GiB: give the cache more memory"):
        size_in_blocks(LAYOUT, 0, 8, 97)


def test_the_container_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:     64 kB\n")
    assert available_bytes(meminfo, tmp_path) == 64 * 1024
    (tmp_path / "memory.max").write_text("50000\n")
    (tmp_path / "memory.current").write_text("20000\n")
    assert available_bytes(meminfo, tmp_path) == 30_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 64 * 1024
    assert available_bytes(tmp_path / "none", tmp_path) == 4 * GIB


@pytest.mark.parametrize(
    ("limit", "used", "details", "prefix"),
    [
        ("memory.max", "memory.current", "memory.stat", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
    ],
)
def test_files_that_a_container_has_read_are_no_memory_in_use(
    tmp_path: Path, limit: str, used: str, details: str, prefix: str
) -> None:
    """A second start in the same container finds the checkpoint in the page cache, which the kernel gives back."""
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("50000\n")
    (tmp_path / used).write_text("45000\n")
    (tmp_path / details).write_text(f"anon 4000\n{prefix}inactive_file 30000\n{prefix}active_file 1000\n")
    assert available_bytes(tmp_path / "none", tmp_path) == 50_000 - 14_000
    (tmp_path / details).write_text(f"{prefix}inactive_file 60000\n")
    assert available_bytes(tmp_path / "none", tmp_path) == 50_000
