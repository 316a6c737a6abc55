"""What operators and probes ask: health, readiness, version, metrics, load."""

from __future__ import annotations

import msgspec
from litestar import Controller, HttpMethod, get, route
from litestar.types import ASGIApp

import oai_server
from oai_server.auth import OPEN
from oai_server.metrics_page import CONTENT_TYPE, MetricsPage
from oai_server.replies import Reply, json_reply
from oai_server.services import Services, services_of
from oai_server.wire.decoding import HttpRequest

EVERYONE = {OPEN: True}


class HealthBody(msgspec.Struct, frozen=True, omit_defaults=True):
    status: str
    """ok, or why not: starting, restarting, draining, dead."""
    phase: str = ""
    """While starting: what is being done."""
    fraction: float = 0.0
    """0..1 of that phase."""
    detail: str = ""


class OperationsController(Controller):
    opt = EVERYONE

    @get(["/health", "/readyz"])
    async def health(self, request: HttpRequest) -> ASGIApp:
        """200 when requests are answered; 503 while the engine starts, restarts, drains or is dead."""
        return _health(services_of(request.scope))

    @get("/livez")
    async def live(self) -> ASGIApp:
        """200 while this process runs."""
        return json_reply({"status": "alive"})

    @route("/ping", http_method=[HttpMethod.GET, HttpMethod.POST])
    async def ping(self, request: HttpRequest) -> ASGIApp:
        """As /health."""
        return _health(services_of(request.scope))

    @get("/version")
    async def version(self) -> ASGIApp:
        """Version of the server."""
        return json_reply({"version": oai_server.__version__})

    @get("/metrics")
    async def metrics(self, request: HttpRequest) -> ASGIApp:
        """Prometheus text."""
        services = services_of(request.scope)
        backend = services.backend
        page = MetricsPage(backend.card.ids[0], services.all_telemetry(), backend.stats(), backend.health())
        return Reply(page.render(), content_type=CONTENT_TYPE)

    @get("/load", opt={OPEN: False})
    async def load(self, request: HttpRequest) -> ASGIApp:
        """Generation requests in work."""
        return json_reply({"server_load": services_of(request.scope).load})


def _health(services: Services) -> ASGIApp:
    health = services.backend.health()
    if services.draining:
        body = HealthBody("draining")
    elif health.state == "ready":
        body = HealthBody("ok")
    else:
        body = HealthBody(health.state, health.phase, health.fraction, health.detail)
    headers = {} if body.status == "ok" else {"retry-after": "1"}
    status = 200 if body.status == "ok" else 503
    return json_reply(body, status, headers)
