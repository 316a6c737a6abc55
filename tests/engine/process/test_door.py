"""The socket between fronts and engine, both ends in one process: greetings, broken messages, fronts that go."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from engine.errors import DeviceLostError
from engine.process.client import EngineClient, EngineListener
from engine.process.door import Door, answering_while_loading
from engine.process.messages import (
    Cancel,
    Heartbeat,
    Hello,
    Progress,
    StepOutputs,
    Submit,
    Welcome,
    socket_path,
    started_path,
)
from engine.process.recorder import RecordedRunner, StartRecorder, is_device_lost
from engine.request import EngineRequest, EngineStats, RequestOutput
from engine.runner.batch import PendingStep, StepBatch
from engine.sampling_params import SamplingParams
from tests.support.loop_by_hand import INFO, Engine, Front, read_until, request
from tests.support.patience import wait_for


def test_that_everything_is_free_is_said_at_once(
    front: Front, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.send(Hello(os.getpid()))
    read_until(front, engine, Heartbeat)
    front.send(Submit((request("a"),)))
    read_until(front, engine, StepOutputs)
    monkeypatch.setattr("engine.process.loop.HEARTBEAT_INTERVAL_S", 1e6)
    while engine.core.live:  # at most one is due before it ends
        front.send(Cancel(("a",)))
        engine.turn()
    while front.receive() != Heartbeat(3, EngineStats()):  # the engine is not turned any more
        pass


def test_hello_is_answered_with_progress_while_loading(door: Door, front: Front) -> None:
    with answering_while_loading(door, 3) as report:
        front.send(Hello(os.getpid()))
        assert front.receive() == Progress(3, "process", 0.0)
        report("weights", 0.25, "shard 1 of 4")
        while (message := front.receive()) != Progress(3, "weights", 0.25, "shard 1 of 4"):
            assert isinstance(message, Progress)


def test_fronts_of_the_loading_time_are_welcomed(door: Door, front: Front, engine: Engine) -> None:
    with answering_while_loading(door, 3):
        front.send(Hello(os.getpid()))
        front.receive()
    engine.loop.run(lambda: False, lambda: True)
    while not isinstance(message := front.receive(), Welcome):
        assert isinstance(message, Progress)
    assert message == Welcome(3, INFO)


def test_a_second_hello_says_that_the_front_is_known(front: Front, engine: Engine) -> None:
    front.send(Hello(os.getpid()))
    assert read_until(front, engine, Welcome) == Welcome(3, INFO, known=False)
    front.send(Hello(os.getpid()))
    assert read_until(front, engine, Welcome) == Welcome(3, INFO, known=True)


@pytest.mark.parametrize(
    "junk",
    [b"", b"\xff", b"\x00" * 1000, b"\x93" * 5000, msgspec.msgpack.encode({"type": "submit", "requests": "x"})],
    ids=["empty", "byte", "zeros", "deep", "wrong type"],
)
def test_broken_messages_are_dropped(front: Front, engine: Engine, junk: bytes) -> None:
    front.send(junk)
    front.socket.send_multipart([b"a", b"b", b"c"])
    front.send(Hello(os.getpid()))
    assert isinstance(read_until(front, engine, Welcome), Welcome)


def test_idle_turns_prepare_the_core_and_requests_come_first(front: Front, engine: Engine) -> None:
    engine.core.preparations = 3
    engine.loop.turn()
    assert engine.core.preparations == 2
    front.send(Submit((EngineRequest("a", (1,), sampling=SamplingParams()),)))
    while not engine.core.live:
        engine.core.preparations = 3
        engine.loop.turn()
    left = engine.core.preparations
    for _ in range(3):
        engine.loop.turn()
    assert engine.core.preparations == left, "a running request was kept waiting"
    front.send(Cancel(("a",)))
    while engine.core.live or engine.core.preparations:
        engine.loop.turn()


def test_a_refused_request_costs_only_itself_and_hides_internals(front: Front, engine: Engine) -> None:
    front.send(Hello(os.getpid()))
    front.send(Submit((request("refused"), request("broken"), request("good"))))
    outputs: dict[str, RequestOutput] = {}
    while len(outputs) < 3:
        message = read_until(front, engine, StepOutputs)
        assert isinstance(message, StepOutputs)
        outputs |= {output.request_id: output for output in message.outputs}
    assert outputs["refused"].error == "not this one"
    assert "detail" not in outputs["broken"].error
    assert outputs["broken"].finish_reason == "error"
    assert outputs["good"].token_ids


def test_the_same_request_twice_is_one(front: Front, engine: Engine) -> None:
    front.send(Hello(os.getpid()))
    front.send(Submit((request("a"),)))
    read_until(front, engine, StepOutputs)
    front.send(Submit((request("a"),)))
    engine.turn(5)
    assert list(engine.core.live) == ["a"]
    assert engine.core.live["a"] > 3


def test_a_front_cancels_only_its_own(door: Door, front: Front, engine: Engine, tmp_path: Path) -> None:
    other = Front(tmp_path)
    for one in (front, other):
        one.send(Hello(os.getpid()))
        read_until(one, engine, Welcome)
    front.send(Submit((request("a"), request("b"))))
    read_until(front, engine, StepOutputs)
    other.send(Cancel(("a", "unknown")))
    front.send(Cancel(("b",)))
    while engine.core.cancelled != ["b"]:
        engine.turn()
    assert list(engine.core.live) == ["a"]
    front.send(Cancel(("a",), (7,)))
    while engine.core.live:
        engine.turn()
    assert engine.core.cancelled == ["b", "a at 7"]
    other.context.destroy(linger=0)


def test_requests_of_a_front_that_closes_are_cancelled(door: Door, front: Front, engine: Engine) -> None:
    front.send(Hello(os.getpid()))
    front.send(Submit((request("a"),)))
    read_until(front, engine, StepOutputs)
    front.socket.close(linger=0)
    wait_for(lambda: engine.turn() or not engine.core.live)
    assert engine.core.cancelled == ["a"]
    assert door.fronts == {}


def test_requests_of_a_process_that_is_killed_are_cancelled(door: Door, engine: Engine, tmp_path: Path) -> None:
    code = (
        "import sys, time, zmq, msgspec\n"
        "from engine.process.messages import *\n"
        "from engine.sampling_params import SamplingParams\n"
        "import os\n"
        f"s = zmq.Context().socket(zmq.DEALER); s.connect('ipc://{socket_path(str(tmp_path / 'run'))}')\n"
        "s.send(msgspec.msgpack.encode(Hello(os.getpid())))\n"
        "s.send(msgspec.msgpack.encode(Submit((EngineRequest('a', (1,), SamplingParams()),))))\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not engine.core.live:
        engine.turn()
    process.kill()
    process.wait()
    wait_for(lambda: engine.turn() or not engine.core.live)
    assert engine.core.cancelled == ["a"]


async def test_the_client_hears_everything_in_order_and_reconnects(tmp_path: Path) -> None:
    heard: list[object] = []

    class Listener:
        def on_progress(self, progress: Progress) -> None:
            heard.append(progress)

        def on_welcome(self, welcome: Welcome) -> None:
            heard.append(welcome)

        def on_outputs(self, outputs: StepOutputs) -> None:
            heard.append(outputs)

        def on_heartbeat(self, heartbeat: Heartbeat) -> None:
            heard.append(heartbeat)

        def on_lost(self) -> None:
            heard.append("lost")

    client = EngineClient(str(tmp_path / "run"), Listener())
    client.open()
    for _ in range(2):
        door = Door(str(tmp_path / "run"))
        engine = Engine(door, tmp_path)
        heard.clear()
        await turn_until(engine, lambda: any(isinstance(m, Welcome) for m in heard))
        client.submit([request("a")])
        await turn_until(engine, lambda: sum(isinstance(m, StepOutputs) for m in heard) >= 20)
        tokens = [m.outputs[0].token_ids[0] for m in heard if isinstance(m, StepOutputs)]
        assert tokens == list(range(1, len(tokens) + 1))
        door.close()
        while heard[-1] != "lost":
            await asyncio.sleep(0.01)
    client.close()
    client.close()


async def test_who_leaves_in_one_turn_of_the_loop_is_one_message(tmp_path: Path) -> None:
    sent: list[object] = []
    client = EngineClient(str(tmp_path / "run"), Mock(EngineListener))
    client.open()
    client._send = sent.append  # type: ignore[method-assign]
    for name in "abc":
        client.cancel([name])
    client.cancel(["d", "e"], [3, 7])
    client.cancel(["f"], [1])
    assert sent == []
    await asyncio.sleep(0)
    assert sent == [Cancel(("a", "b", "c")), Cancel(("d", "e", "f"), (3, 7, 1))]
    client.cancel(["g"])
    await asyncio.sleep(0)
    assert sent[2:] == [Cancel(("g",))]
    client.close()


async def turn_until(engine: Engine, condition: object) -> None:
    async with asyncio.timeout(60):
        while not condition():  # type: ignore[operator]
            engine.turn()
            await asyncio.sleep(0.002)


def test_started_requests_are_on_disk_before_the_step(tmp_path: Path) -> None:
    class Row:
        def __init__(self, name: str) -> None:
            self.sequence = type("S", (), {"request": request(name)})

    class Batch:
        def __init__(self, *names: str) -> None:
            self.rows = [Row(name) for name in names]

    recorder = StartRecorder(str(tmp_path), 2)
    recorder.note(Batch("a", "b"))  # type: ignore[arg-type]
    recorder.note(Batch("a", "b", "c"))  # type: ignore[arg-type]
    assert Path(started_path(str(tmp_path), 2)).read_text().split() == ["a", "b", "c"]
    assert recorder.take_fresh() == ("a", "b", "c")
    assert recorder.take_fresh() == ()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (type("AcceleratorError", (RuntimeError,), {})("anything"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), False),
        (ValueError("bad shape"), False),
    ],
)
def test_a_lost_device_is_told_from_a_failed_step(error: Exception, lost: bool) -> None:
    assert is_device_lost(error) is lost


@pytest.mark.parametrize("stage", ["launch", "finish_launch", "result"])
def test_it_is_told_wherever_a_step_fails(stage: str) -> None:
    lost = RuntimeError("CUDA error: device-side assert triggered")
    runner, step = Mock(), Mock(spec=PendingStep)
    runner.launch.return_value = step
    getattr(runner if stage == "launch" else step, stage).side_effect = lost
    recorded = RecordedRunner(runner, Mock(spec=StartRecorder))
    with pytest.raises(DeviceLostError, match="device-side assert"):
        pending = recorded.launch(Mock(spec=StepBatch))
        pending.finish_launch()
        pending.result()
