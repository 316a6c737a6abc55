"""`@json_post`: a POST handler as Litestar's `@asgi`, which costs a short request a quarter less than its `@post`.

Litestar still routes to it, checks its key and renders its errors. What is left out is what no handler here uses:
dependencies, parsed parameters, response classes and caches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from litestar import asgi
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from oai_server.wire.decoding import Incoming

ALLOW = "OPTIONS, POST"

Handler = Callable[[Incoming], Awaitable[ASGIApp]]


def json_post(*paths: str) -> Callable[[Handler], ASGIRouteHandler]:
    """The handler of POST on `paths`. It returns the application that answers, or raises what becomes an error."""

    def decorate(handler: Handler) -> ASGIRouteHandler:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope.get("method") == "POST":
                reply = await handler(Incoming(scope, receive))
                await reply(scope, receive, send)
            elif scope.get("method") == "OPTIONS":
                await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", ALLOW.encode())]})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                raise MethodNotAllowedException(headers={"allow": ALLOW})

        return asgi(list(paths), copy_scope=False)(app)

    return decorate
