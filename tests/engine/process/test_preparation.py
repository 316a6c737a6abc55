"""What is prepared beside the steps: graphs in quiet moments, grammars of requests that wait for them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from unittest.mock import Mock

import pytest

from engine.errors import RequestError
from engine.process.loop import QUIET_S
from engine.process.messages import (
    Cancel,
    FrontMessage,
    Hello,
    ResetPrefixCache,
    StepOutputs,
    Submit,
)
from engine.request import RequestFault, RequestOutput
from tests.support.loop_by_hand import Engine, Front, request
from tests.support.patience import wait_for


def test_only_quiet_moments_are_used_to_prepare(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's next request follows the answer to its last one, and would wait."""
    heard: list[tuple[bytes, FrontMessage]] = [(b"a", ResetPrefixCache())]
    receive = Mock(side_effect=lambda wait_ms: heard)
    monkeypatch.setattr(engine.loop._door, "receive", receive)
    engine.core.preparations = 2
    engine.loop.turn()
    assert engine.core.preparations == 2
    heard = []
    engine.loop.turn()
    assert engine.core.preparations == 1
    assert {call.args for call in receive.call_args_list} == {(int(QUIET_S * 1000),)}


def test_a_request_whose_grammar_is_compiled_holds_nobody_up(front: Front, engine: Engine) -> None:
    engine.core.futures = {name: Future() for name in ("slow", "bad", "left")}
    front.send(Hello(os.getpid()))
    front.send(Submit((request("slow"), request("bad"), request("left"), request("other"))))
    wait_for(lambda: engine.turn() or "other" in engine.core.live, "the request that need not wait")
    front.send(Submit((request("slow"),)))  # a second time: it stays one
    front.send(Cancel(("left",)))
    wait_for(lambda: engine.turn() or "left" in engine.core.cancelled, "the cancellation")
    assert list(engine.core.live) == ["other"]
    engine.core.futures["bad"].set_exception(RequestError("no grammar", "response_format"))
    engine.core.futures["slow"].set_result(None)
    engine.core.futures["left"].set_result(None)
    engine.turn(2)
    assert list(engine.core.live) == ["other", "slow"]
    heard: list[RequestOutput] = []
    while front.socket.poll(100):
        message = front.receive()
        heard += message.outputs if isinstance(message, StepOutputs) else ()
    refused = [output for output in heard if output.finish_reason == "error"]
    assert [(output.request_id, output.error) for output in refused] == [("bad", "no grammar")]
    assert refused[0].fault == RequestFault("response_format", None)
    engine.core.futures = {}
    front.send(Submit((request("bad"),)))  # the id is free again
    wait_for(lambda: engine.turn() or "bad" in engine.core.live, "the same id")


def test_an_idle_engine_waits_for_grammars_before_it_ends(front: Front, engine: Engine) -> None:
    engine.core.futures = {"slow": Future()}
    front.send(Submit((request("slow"),)))
    wait_for(lambda: engine.turn() or bool(engine.loop._held), "the request")
    asked: list[bool] = []
    threading.Timer(0.2, engine.core.futures["slow"].set_result, (None,)).start()
    engine.loop.run(lambda: "slow" in engine.core.live, lambda: asked.append(True) or True)  # type: ignore[func-returns-value]
    assert asked == []
    assert "slow" in engine.core.live
