"""The built-in page's files over HTTP. What the page does is tested in a browser: test_playground_browser."""

from __future__ import annotations

import pytest
from litestar.testing import TestClient

from oai_server.app import create_app
from oai_server.playground import playground_routes
from oai_server.settings import Settings
from tests.support.fake_backend import FakeBackend


@pytest.mark.parametrize("path", ["/", "/playground/app.js"])
def test_each_header_is_sent_once(path: str) -> None:
    app = create_app(
        Settings(api_key=("secret",), allowed_hosts=("*",)), FakeBackend(), extra_routes=playground_routes()
    )
    with TestClient(app) as client:
        reply = client.get(path)
    names = [name for name, _ in reply.headers.multi_items()]
    assert reply.status_code == 200
    assert sorted(names) == sorted(set(names))
    assert {"content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy"} <= set(names)
