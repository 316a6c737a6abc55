"""What the routes of one application share. Made once by `create_app`; there are no globals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from litestar.types import Scope

from adapters.backend import Backend
from engine.errors import EngineError, EngineOverloadedError
from oai_server.errors import ApiError, from_engine
from oai_server.interrupts import Interruptible
from oai_server.limits import ComingBodies, KeyLimiter
from oai_server.settings import Settings
from oai_server.telemetry import Telemetry


@dataclass(slots=True, eq=False)
class Services:
    settings: Settings
    backend: Backend
    limiter: KeyLimiter
    telemetry: Telemetry
    fingerprint: str
    """`system_fingerprint` of replies."""
    bodies: ComingBodies
    live: set[Interruptible] = field(default_factory=set)
    """Requests in work; the drain ends them."""
    draining: bool = False
    """After the first SIGTERM: no new work."""
    published_telemetry: Callable[[], Telemetry] | None = None
    """With several HTTP processes: the numbers of all of them together."""
    published_load: Callable[[], int] | None = None
    """The same for `load`."""

    @property
    def load(self) -> int:
        """Generation requests in work in all HTTP processes."""
        return len(self.live) if self.published_load is None else self.published_load()

    @property
    def ready(self) -> bool:
        return not self.draining and self.backend.health().state == "ready"

    def all_telemetry(self) -> Telemetry:
        """The numbers of all HTTP processes together."""
        return self.telemetry if self.published_telemetry is None else self.published_telemetry()

    def told(self, error: EngineError) -> ApiError:
        """What the client is told; a request that was turned away is counted."""
        self.telemetry.rejected += isinstance(error, EngineOverloadedError)
        return from_engine(error)


def services_of(scope: Scope) -> Services:
    services: Services = scope["litestar_app"].state["services"]
    return services
