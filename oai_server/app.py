"""The application: routes, keys, error shape and the outermost wrapper around them. Nothing here is global."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import AsyncIterator, Sequence

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ControllerRouterHandler

import oai_server
from adapters.backend import Backend
from oai_server.auth import KeyRing, RequireKey
from oai_server.connection import Connection
from oai_server.error_replies import on_exception
from oai_server.limits import ComingBodies, KeyLimiter
from oai_server.openapi import describe
from oai_server.routes.chat import create_chat_completion
from oai_server.routes.completions import create_completion
from oai_server.routes.generate import generate, generate_stream
from oai_server.routes.messages import messages_router
from oai_server.routes.models import ModelsController
from oai_server.routes.operations import OperationsController
from oai_server.routes.responses import count_input_tokens, create_response, retrieve_response
from oai_server.routes.tokens import detokenize, tokenize
from oai_server.services import Services
from oai_server.settings import Settings
from oai_server.telemetry import Telemetry

LARGEST_BODIES = 8
"""How many bodies of --max-body-mib may be on their way at once."""


class LeanLitestar(Litestar):
    """Without its plugins for pydantic and attrs: no handler uses them, their imports take a fifth of a second."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def create_app(
    settings: Settings,
    backend: Backend,
    *,
    extra_routes: Sequence[ControllerRouterHandler] = (),
    services: Services | None = None,
) -> Litestar:
    """The whole server as an ASGI application. It starts the backend with its lifespan and stops it with it.

    `extra_routes`: more Litestar handlers, such as the built-in page's; `opt={auth.OPEN: True}` marks those that need
    no API key. `services`: of a caller that needs them itself (the drain); made here otherwise.
    """
    services = services or make_services(settings, backend)
    app = LeanLitestar(
        route_handlers=[
            create_chat_completion,
            create_completion,
            generate,
            generate_stream,
            messages_router,
            ModelsController,
            OperationsController,
            create_response,
            count_input_tokens,
            retrieve_response,
            tokenize,
            detokenize,
            describe,
            *extra_routes,
        ],
        middleware=[RequireKey(KeyRing(settings.api_key))] if settings.api_key else [],
        exception_handlers={Exception: on_exception},
        cors_config=_cors(settings),
        lifespan=[functools.partial(_running, backend)],
        openapi_config=None,
        logging_config=None,
        state=State({"services": services}),
    )
    app.asgi_handler = Connection(app.asgi_handler, services)
    return app


@contextlib.asynccontextmanager
async def _running(backend: Backend, app: Litestar) -> AsyncIterator[None]:
    """What has not started is not stopped: its error would hide the start's own."""
    await backend.start()
    try:
        yield
    finally:
        await backend.stop()


def make_services(settings: Settings, backend: Backend) -> Services:
    return Services(
        settings=settings,
        backend=backend,
        limiter=KeyLimiter(settings.max_concurrent_requests_per_key),
        telemetry=Telemetry(),
        fingerprint=_fingerprint(settings),
        bodies=ComingBodies(LARGEST_BODIES * int(settings.max_body_mib * 2**20)),
    )


def _fingerprint(settings: Settings) -> str:
    """Changes when the version or anything about the engine does."""
    config = repr(settings.engine_config()).encode()
    return f"oai-server-{oai_server.__version__}-{hashlib.sha256(config).hexdigest()[:8]}"


def _cors(settings: Settings) -> CORSConfig | None:
    if not settings.allowed_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.allowed_origins), expose_headers=["x-request-id", "retry-after", "retry-after-ms"]
    )
