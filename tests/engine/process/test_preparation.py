"""What is prepared beside the steps: graphs in quiet moments, grammars of requests that wait for them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from engine.errors import RequestError
from engine.process.loop import QUIET_S, SETTLE_S
from engine.process.messages import (
    Cancel,
    FrontMessage,
    Heartbeat,
    Hello,
    ResetPrefixCache,
    StepOutputs,
    Submit,
    started_path,
)
from engine.process.recorder import StartRecorder
from engine.request import GrammarSpec, RequestFault, RequestOutput
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
    bad = msgspec.structs.replace(request("bad"), grammar=GrammarSpec("regex", "((", "structured_outputs"))
    front.send(Submit((request("slow"), bad, request("left"), request("other"))))
    wait_for(lambda: engine.turn() or "other" in engine.core.live, "the request that need not wait")
    front.send(Submit((request("slow"),)))  # a second time: it stays one
    front.send(Cancel(("left",)))
    wait_for(lambda: engine.turn() or "left" in engine.core.cancelled, "the cancellation")
    assert list(engine.core.live) == ["other"]
    engine.core.futures["bad"].set_exception(RequestError("no grammar", "response_format"))
    engine.core.futures["slow"].set_result("its grammar")
    assert engine.core.futures["left"].cancelled(), "it had not begun"
    engine.turn(2)
    assert engine.core.prepared == {"other": None, "slow": "its grammar"}
    heard: list[RequestOutput] = []
    while front.socket.poll(100):
        message = front.receive()
        heard += message.outputs if isinstance(message, StepOutputs) else ()
    refused = [output for output in heard if output.finish_reason == "error"]
    assert [(output.request_id, output.error) for output in refused] == [("bad", "no grammar")]
    assert refused[0].fault == RequestFault("structured_outputs", None), "its own field, not the compiler's guess"
    engine.core.futures = {}
    front.send(Submit((request("bad"),)))  # the id is free again
    wait_for(lambda: engine.turn() or "bad" in engine.core.live, "the same id")


def test_an_idle_engine_waits_for_grammars_before_it_ends(front: Front, engine: Engine) -> None:
    engine.core.futures = {"slow": Future()}
    front.send(Submit((request("slow"),)))
    wait_for(lambda: engine.turn() or bool(engine.loop._held), "the request")
    asked: list[bool] = []
    threading.Timer(0.2, engine.core.futures["slow"].set_result, ("done",)).start()
    engine.loop.run(lambda: "slow" in engine.core.live, lambda: asked.append(True) or True)  # type: ignore[func-returns-value]
    assert asked == []
    assert "slow" in engine.core.live


def test_what_two_wait_for_is_not_given_up_when_one_leaves(front: Front, engine: Engine) -> None:
    shared = Future[str]()
    engine.core.futures = {"a": shared, "b": shared}
    front.send(Submit((request("a"), request("b"))))
    front.send(Cancel(("a",)))
    wait_for(lambda: engine.turn() or "a" in engine.core.cancelled, "the cancellation")
    assert not shared.cancelled()
    shared.set_result("for b")
    engine.turn()
    assert engine.core.prepared == {"b": "for b"}


def test_what_cannot_be_prepared_is_left_to_the_step(front: Front, engine: Engine) -> None:
    front.send(Submit((request("unprepared"),)))
    wait_for(lambda: engine.turn() or "unprepared" in engine.core.live, "the request")


def test_held_requests_are_counted_as_waiting(front: Front, engine: Engine) -> None:
    engine.core.futures = {"slow": Future()}
    front.send(Hello(os.getpid()))
    front.send(Submit((request("slow"),)))
    wait_for(lambda: engine.turn() or bool(engine.loop._held), "the request")
    engine.loop._heartbeat_due_s = 0.0
    engine.turn()
    heard = [front.receive()]
    while front.socket.poll(100):
        heard.append(front.receive())
    assert [message.stats.num_waiting for message in heard if isinstance(message, Heartbeat)][-1] == 1


def test_the_engine_settles_once_when_it_has_been_calm(
    front: Front, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr("engine.process.loop.time.monotonic", lambda: now_s[0])
    engine.loop._calm_since_s = 100.0
    monkeypatch.setattr(engine.loop._door, "receive", Mock(return_value=[]))
    for later_s in (0.0, SETTLE_S - 0.1):
        now_s[0] = 100.0 + later_s
        engine.turn()
    engine.core.live["busy"] = 0
    now_s[0] += 1.0
    engine.turn()
    engine.core.live.clear()
    now_s[0] += SETTLE_S - 0.1
    engine.turn()
    assert engine.core.settled == 0
    for _ in range(3):
        now_s[0] += SETTLE_S
        engine.turn()
    assert engine.core.settled == 1


def test_a_suspect_stays_one_until_it_starts_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.process.recorder.REWRITE_BYTES", 10)
    recorder = StartRecorder(str(tmp_path), 1)
    written = Path(started_path(str(tmp_path), 1))
    recorder.suspect("compiling-one")
    recorder.suspect("compiling-two")
    assert set(written.read_text().split()) == {"compiling-one", "compiling-two"}
    recorder.discard("compiling-one")
    recorder.suspect("compiling-three")
    assert set(written.read_text().split()) == {"compiling-two", "compiling-three"}
