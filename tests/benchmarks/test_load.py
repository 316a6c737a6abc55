"""The load client: what scenarios mean, which prompts they send, and a run against a server of a few lines."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Iterator

import pytest

from benchmarks import load
from benchmarks.scenarios import SAMPLING, Scenario, build, parse_scenario

TARGET = load.Target("http://127.0.0.1:1", "m", vocab=1000, processes=2)


def test_scenarios_take_the_rest_from_the_default() -> None:
    default = Scenario(clients=(1, 8), output=7, rounds=3)
    long = parse_scenario("long:clients=16,input=8192:8192,temperature=0.7,per_client=1.5", default)
    assert (long.name, long.loads, long.input, long.output, long.rounds) == ("long", [(16, 0.0)], (8192, 8192), 7, 3)
    assert (long.temperature, long.requests(16, 0.0)) == (0.7, 24)
    opened = build({"name": "open", "rates": [2, 4.5], "seconds": 10}, default)
    assert opened.loads == [(0, 2), (0, 4.5)]
    assert opened.requests(0, 4.5) == 45
    assert parse_scenario("same:", default).loads == default.loads


@pytest.mark.parametrize("text", ["a:clinets=1", "a:clients=", "a:input=5", "a:clients=x"])
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown|needed|invalid"):
        parse_scenario(text, Scenario(clients=(1,)))


def test_requests_say_how_to_sample_where_a_scenario_does() -> None:
    scenario = parse_scenario("own:clients=1,temperature=0.7,top_p=0.8,top_k=20", Scenario())
    sent = json.loads(load.body(TARGET, scenario, random.Random(1), random.Random(1)))
    asked = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    assert {name: value for name, value in sent.items() if name in SAMPLING} == asked == scenario.sampling
    assert Scenario(clients=(1,)).sampling == {"temperature": 0.0}


def test_prompts_share_the_prefix_and_nothing_else() -> None:
    scenario = Scenario(clients=(1,), input=(5, 9), shared_prefix=20)
    first, second = (
        json.loads(load.body(TARGET, scenario, random.Random(number), random.Random("prefix")))["prompt"]
        for number in range(2)
    )
    assert first[:20] == second[:20]
    assert first[20:] != second[20:]
    assert 25 <= len(first) <= 29


class Server(threading.Thread):
    """Answers every request with three chunks and remembers the prompts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.prompts: list[list[int]] = []
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()

    def run(self) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()

        self._loop.run_until_complete(main())
        self._loop.run_forever()

    def wait(self) -> Server:
        self.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(
            next(row for row in head.decode().split("\r\n") if row.startswith("Content-Length")).split(":")[1]
        )
        self.prompts.append(json.loads(await reader.readexactly(length))["prompt"])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for _ in range(3):
            writer.write(b'data: {"choices": [{"text": "a"}]}\n\n')
            await writer.drain()
            await asyncio.sleep(0.005)
        writer.write(b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n')
        writer.close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server().wait()
    yield found
    found.stop()


def test_levels_are_counted_and_prompts_are_fresh(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    target = load.Target(f"http://127.0.0.1:{server.port}", "m", vocab=1000, processes=2)
    scenario = Scenario(clients=(3,), rates=(40.0,), input=(8, 12), seconds=0.2, rounds=2)
    closed, opened = load.measure(target, scenario, warm=False)
    assert (closed["requests"], opened["requests"], closed["errors"], opened["errors"]) == (12, 16, 0, 0)
    assert len(closed["output_tokens_per_s_rounds"]) == 2
    assert 5 < closed["tpot_p50_ms"] < 100
    assert 0 <= closed["client_busy"] < 1.5
    assert len({tuple(prompt) for prompt in server.prompts}) == len(server.prompts) == 28
    sent = sorted(server.prompts)
    server.prompts.clear()
    load.measure(target, scenario, warm=False)
    assert sorted(server.prompts) == sent, "another server gets the same"
    assert "spread" in capsys.readouterr().out


def test_failures_are_counted() -> None:
    (level,) = load.measure(TARGET, Scenario(clients=(2,)), warm=False)
    assert (level["requests"], level["errors"]) == (0, 4)
    assert "refused" in level["first_error"][0] or "Connect" in level["first_error"][0]
