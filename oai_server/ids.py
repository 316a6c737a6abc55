"""Fresh names for requests and replies. They are unique, not secret: nothing is allowed by knowing one."""

from __future__ import annotations

import random

_source = random.Random()
"""Seeded by the system once a process; asking the system for every name costs a system call each."""


def fresh_hex(num_bytes: int) -> str:
    """Two random hexadecimal digits a byte."""
    return _source.randbytes(num_bytes).hex()
