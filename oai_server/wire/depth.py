"""How deep JSON is nested."""

from __future__ import annotations

from typing import Any


def depth_within(value: Any, limit: int) -> bool:
    """Whether JSON containers are nested at most `limit` deep. Iterative, since the input is a client's."""
    if not value:
        return True
    level = [value]
    for _ in range(limit):
        level = [child for item in level for child in _children(item)]
        if not level:
            return True
    return False


def _children(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict | list)]
