"""Fresh names for requests and replies. They are unique, not secret: nothing is allowed by knowing one."""

from __future__ import annotations

import random

_source = random.Random()
"""Seeded by the system once a process; asking the system for every name costs a system call each."""


def fresh_hex(bits: int) -> str:
    """A random hexadecimal number of `bits` bits, a multiple of 4."""
    return f"{_source.getrandbits(bits):0{bits // 4}x}"
