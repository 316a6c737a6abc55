"""What only the engine can find wrong with a request is the client's error all the same: 400 with the parameter.

Over HTTP on the bundled model. Its neighbours notice nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.engine_backend import EngineBackend
from engine.config import EngineConfig
from engine.request import EngineRequest, GrammarSpec, RequestFault
from engine.runner.batch import NOT_A_NUMBER, NOTHING_ALLOWED, UNKNOWN_ID
from engine.sampling_params import SamplingParams
from engine.scheduling.intake import fault_of_row
from tests.support.live_server import LiveServer, live_server
from tests.support.patience import wait_for

DEMO = Path(__file__).parents[2] / "oai_server" / "demo_model"
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40, "temperature": 0}
NOWHERE = 'start: "ab" X\nX: /[^\\s\\S]/'
"""A grammar that looks like one; that nothing fits is found when the vocabulary is laid over it."""
TOO_LARGE = {"type": "string", "pattern": "^(a+)+$", "minLength": 100_000}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    if not list(DEMO.glob("*.safetensors")):
        pytest.skip("the demo model has no weights")
    config = EngineConfig(str(DEMO), max_model_len=256, num_threads=1)
    with live_server(engine=EngineBackend(config)) as server:
        wait_for(lambda: server.get("/health").status_code == 200, "the model is loaded")
        yield server


def error_of(reply: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = reply.json()["error"]
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"grammar": NOWHERE}}, "structured_outputs"),
        ({"guided_grammar": NOWHERE}, "guided_grammar"),
        ({"structured_outputs": {"json": TOO_LARGE}}, "structured_outputs"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": TOO_LARGE}}},
            "response_format",
        ),
        ({"allowed_token_ids": [5], "structured_outputs": {"regex": "zzz"}}, "structured_outputs"),
        ({"allowed_token_ids": [6137], "min_tokens": 2}, "allowed_token_ids"),
    ],
)
def test_a_constraint_that_fails_in_the_engine_names_its_field(
    server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    reply = server.post("/v1/chat/completions", CHAT | fields)
    assert reply.status_code == 400, reply.text
    assert (error_of(reply)["type"], error_of(reply)["param"]) == ("invalid_request_error", param)
    assert server.post("/v1/chat/completions", CHAT).status_code == 200


def test_a_stream_says_it_in_its_error_event(server: LiveServer) -> None:
    fields = {"structured_outputs": {"grammar": NOWHERE}, "stream": True}
    with server.client.stream("POST", "/v1/chat/completions", json=CHAT | fields) as reply:
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
    error = events[-1]["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "structured_outputs")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "field"), [("/v1/completions", "prompt"), ("/v1/chat/completions", "messages")])
def test_a_prompt_that_cannot_fit_is_refused(server: LiveServer, path: str, field: str, stream: bool) -> None:
    text = "a b " * 200
    prompt: Any = text if field == "prompt" else [{"role": "user", "content": text}]
    reply = server.post(path, {field: prompt, "max_tokens": 1, "stream": stream})
    assert reply.status_code == 400, reply.text
    assert (error_of(reply)["param"], error_of(reply)["code"]) == (field, "context_length_exceeded")


@pytest.mark.parametrize("token_id", [6144, 2**31, -1])
def test_an_unknown_token_id_is_refused(server: LiveServer, token_id: int) -> None:
    reply = server.post("/v1/completions", {"prompt": [5, token_id], "max_tokens": 1})
    assert reply.status_code == 400
    assert error_of(reply)["param"] == "prompt"


@pytest.mark.parametrize(
    ("reason", "fields", "param"),
    [
        (UNKNOWN_ID, {}, "prompt"),
        (NOT_A_NUMBER, {"grammar": GrammarSpec("regex", "a")}, None),
        (NOT_A_NUMBER, {}, None),
        (NOTHING_ALLOWED, {"grammar": GrammarSpec("regex", "a", "guided_regex")}, "guided_regex"),
        (NOTHING_ALLOWED, {"sampling": SamplingParams(allowed_token_ids=(1,))}, "allowed_token_ids"),
        (NOTHING_ALLOWED, {"sampling": SamplingParams(bad_words=((1, 2),))}, "bad_words"),
        (NOTHING_ALLOWED, {"sampling": SamplingParams()}, None),
        ("Invalid grammar", {"grammar": GrammarSpec("regex", "((")}, "response_format"),
        ("something else", {"sampling": SamplingParams(allowed_token_ids=(1,))}, None),
    ],
)
def test_whose_fault_a_failed_row_is(reason: str, fields: dict[str, Any], param: str | None) -> None:
    request = EngineRequest("a", (1,), **{"sampling": SamplingParams(), **fields})
    assert fault_of_row(request, reason) == (RequestFault(param) if param else None)
