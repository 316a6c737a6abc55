"""/openapi.json tells the truth, and nothing generated from it gets a 5xx."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from oai_server.app import create_app
from oai_server.openapi import document
from oai_server.settings import Settings
from oai_server.wire.bounds import BOUNDS
from oai_server.wire.chat import ChatRequest
from oai_server.wire.unsupported import UNSUPPORTED
from tests.support.fake_backend import FakeBackend
from tests.support.live_server import LiveServer

DOCUMENT: dict[str, Any] = json.loads(document())


def test_every_route_is_described_and_every_description_is_a_route() -> None:
    app = create_app(Settings(), FakeBackend())
    # A route of `json_post` tells its method nobody but its caller.
    routes = {
        (method.lower(), re.sub(r":\w+}", "}", path))
        for path, methods in ((route.path, getattr(route, "methods", None) or ["POST"]) for route in app.routes)
        for method in methods
        if method not in ("OPTIONS", "HEAD")
    }
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == routes


def test_request_schemas_are_the_structs() -> None:
    chat = DOCUMENT["components"]["schemas"]["ChatRequest"]
    assert set(chat["properties"]) == set(ChatRequest.__struct_fields__) and chat["required"] == ["messages"]
    temperature = next(branch for branch in chat["properties"]["temperature"]["anyOf"] if branch["type"] == "number")
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert set(BOUNDS) <= set(ChatRequest.__struct_fields__)


def test_unsupported_parameters_are_fields() -> None:
    from oai_server.wire.completions import CompletionRequest

    known = {*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__}
    assert not set(UNSUPPORTED) - known


def test_references_resolve() -> None:
    text = document().decode()
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(DOCUMENT["components"]["schemas"])


@pytest.mark.slow
def test_schemathesis_finds_no_5xx(server: LiveServer) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    for operation in schema.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
        def run(case: Any) -> None:
            reply = case.call(base_url=server.url)
            case.validate_response(reply, checks=(schemathesis.checks.not_a_server_error,))

        run()


def test_bodies_made_from_the_schema_get_no_5xx(server: LiveServer) -> None:
    """What the slow test does at length: every field of a request with every kind of JSON value."""
    values: list[Any] = [True, -1, 1.5, 2**70, "", [], [1], {"a": 1}, [None], [{}]]
    for path, base in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 1}),
    ):
        name = {"messages": "ChatRequest", "prompt": "CompletionRequest", "input": "ResponsesRequest"}[
            next(iter(base))
        ]
        for field in DOCUMENT["components"]["schemas"][name]["properties"]:
            for value in values:
                reply = server.post(path, {**base, field: value})
                assert reply.status_code in (200, 400, 404), (path, field, value, reply.text)
                if reply.status_code != 200:
                    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_structs_ignore_unknown_fields() -> None:
    assert msgspec.json.decode(b'{"messages": [], "x": 1}', type=ChatRequest).messages == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/chat/completions", "Did you mean /v1/chat/completions?"),
        ("/v1/v1/models", "Did you mean /v1/models?"),
        ("/v1/v1/messages", "Did you mean /v1/messages? Base URLs end before /v1."),
        ("/v1/embeddings", "embeddings, images, audio, files and the like are not served"),
        ("/foo", "Invalid URL (POST /foo)"),
    ],
)
def test_an_unknown_path_says_what_was_probably_meant(server: LiveServer, path: str, words: str) -> None:
    reply = server.post(path, {"model": "fake", "input": "x"})
    assert reply.status_code == 404
    assert words in reply.json()["error"]["message"]
