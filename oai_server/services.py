"""What the routes of one application share. Made once by `create_app`; there are no globals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from litestar.connection import ASGIConnection

from adapters.backend import Backend
from oai_server.interrupts import Interruptible
from oai_server.limits import KeyLimiter
from oai_server.settings import Settings
from oai_server.telemetry import Telemetry

if TYPE_CHECKING:
    from oai_server.auth import KeyRing


@dataclass(slots=True, eq=False)
class Services:
    settings: Settings
    backend: Backend
    keys: KeyRing
    limiter: KeyLimiter
    telemetry: Telemetry
    fingerprint: str
    """`system_fingerprint` of replies."""
    live: set[Interruptible] = field(default_factory=set)
    """Requests in work; the drain ends them."""
    draining: bool = False
    """After the first SIGTERM: no new work."""
    other_workers: Callable[[], list[Telemetry]] = list
    """The latest numbers of the other HTTP processes on this port."""

    @property
    def ready(self) -> bool:
        return not self.draining and self.backend.health().state == "ready"

    def all_telemetry(self) -> Telemetry:
        """The numbers of all HTTP processes together."""
        others = self.other_workers()
        if not others:
            return self.telemetry
        total = self.telemetry.copy()
        for other in others:
            total.add(other)
        return total


def services_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Services:
    services: Services = connection.scope["litestar_app"].state["services"]
    return services
