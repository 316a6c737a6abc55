"""Options and fixtures: `pytest compat_tests --base-url URL [--peer-url URL] [--model NAME]`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest

from compat_tests import differences
from compat_tests.http import Endpoint


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("compat")
    group.addoption("--base-url", default=None, help="the server under test, without /v1")
    group.addoption("--peer-url", default=None, help="a peer (vLLM) with the same checkpoint and model name")
    group.addoption("--model", default=None, help="model name; default: the first that the server lists")
    group.addoption("--key", default="none", help="API key")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With a peer: the differences that were met, each with its reason."""
    if differences.seen:
        terminalreporter.section("known differences from the peer that were seen")
        for what, reason in sorted(differences.seen.items()):
            terminalreporter.write_line(f"{what}: {reason}")


def _required(config: pytest.Config, option: str) -> str:
    value = config.getoption(option)
    if not value:
        pytest.skip(f"{option} is not given")
    return str(value).rstrip("/")


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    return _required(request.config, "--base-url")


@pytest.fixture(scope="session")
def api_key(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--key"))


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest, base_url: str, api_key: str) -> str:
    named = request.config.getoption("--model")
    if named:
        return str(named)
    reply = httpx.get(f"{base_url}/v1/models", headers={"Authorization": f"Bearer {api_key}"}, timeout=10)
    return str(reply.json()["data"][0]["id"])


@pytest.fixture(scope="session")
def ours(base_url: str, api_key: str) -> Iterator[Endpoint]:
    yield from _endpoint(base_url, api_key)


@pytest.fixture(scope="session")
def peer(request: pytest.FixtureRequest, api_key: str) -> Iterator[Endpoint]:
    yield from _endpoint(_required(request.config, "--peer-url"), api_key)


def _endpoint(url: str, api_key: str) -> Iterator[Endpoint]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=120) as client:
        yield Endpoint(client)


@pytest.fixture(scope="session")
def client(base_url: str, api_key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key=api_key, max_retries=0, timeout=60) as session:
        yield session


@pytest.fixture
async def async_client(base_url: str, api_key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=api_key, max_retries=0, timeout=60) as session:
        yield session
