"""The built-in page at `/`: four files, no build step, nothing from outside. Names resolve against a fixed table."""

from __future__ import annotations

from pathlib import Path

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from oai_server.auth import OPEN

_FOLDER = Path(__file__).parent
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def playground_routes() -> list[HTTPRouteHandler]:
    """The page and its files. They hold no secret and need no key; what they call does."""
    files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _KINDS}
    contents = {name: (path.read_bytes(), _KINDS[path.suffix]) for name, path in files.items()}

    def send(name: str) -> Response[bytes]:
        if name not in contents:
            raise NotFoundException
        body, media_type = contents[name]
        return Response(body, media_type=media_type, headers=HEADERS)

    @get("/", opt={OPEN: True}, include_in_schema=False, sync_to_thread=False)
    def page() -> Response[bytes]:
        return send("index.html")

    @get("/playground/{name:str}", opt={OPEN: True}, include_in_schema=False, sync_to_thread=False)
    def page_file(name: FromPath[str]) -> Response[bytes]:
        return send(name)

    return [page, page_file]
