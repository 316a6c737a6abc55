"""Policies by the name that configurations use."""

from __future__ import annotations

from collections.abc import Callable

from engine.config import PolicyName
from engine.errors import ConfigurationError
from engine.scheduling.aligned import AlignedShortestFirst
from engine.scheduling.first_come import FirstComeFirstServed
from engine.scheduling.policy import SchedulingPolicy
from engine.scheduling.shortest_first import FairShortestFirst

POLICIES: dict[str, Callable[[], SchedulingPolicy]] = {
    "sjf": FairShortestFirst,
    "aligned-sjf": AlignedShortestFirst,
    "fcfs": FirstComeFirstServed,
}


def make_policy(name: PolicyName | str) -> SchedulingPolicy:
    """A fresh policy. Raises ConfigurationError for a name that is none."""
    if name not in POLICIES:
        raise ConfigurationError(f"policy {name!r} is unknown; supported: {', '.join(POLICIES)}")
    return POLICIES[name]()
