"""The engine's process dies, hangs or is killed by a request. What its clients see of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from adapters.backend_options import BackendLimits
from adapters.recovery import MAX_DEATHS
from engine.errors import EngineDeadError, EngineUnavailableError, RequestFailedError
from tests.support.fault_backend import QUICK, ask, fault_backend, limits_of, read, until
from tests.support.fault_runner import Script, expected_text

STREAMS = 64
SILENCE_SOON = limits_of(Script(silence_s=2))


async def test_all_streams_end_whole_after_the_engine_was_killed_twice(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.01)) as backend:
        replies = [
            asyncio.create_task(read(backend, ask(f"stream {i}", 120, seed=i, stream=i % 4 != 0)))
            for i in range(STREAMS)
        ]
        for _ in range(2):
            pid = backend.engine_pid
            assert pid is not None
            await asyncio.sleep(0.4)
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: backend.engine_pid not in (None, pid) and backend.health().state == "ready")
        texts = await asyncio.gather(*replies)
        assert texts == [expected_text(f"stream {i}", i, 120) for i in range(STREAMS)]
        assert backend.counters().engine_restarts == 2
        assert backend.counters().finished_by_reason == {"length": STREAMS}
        await until(lambda: backend.stats().kv_blocks_used == 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_engine_learns_how_long_replies_are_that_a_stop_string_ends(tmp_path: Path, stream: bool) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.002)) as backend:
        whole = expected_text("stops", 3, 60)
        stop = next(whole[i : i + 3] for i in range(5, 40) if whole.index(whole[i : i + 3]) == i)
        text = await read(backend, ask("stops", 2000, seed=3, stream=stream, stop=(stop,)))
        assert text == whole[: whole.index(stop)]
        await until(lambda: backend.stats().requests_finished == 1 and backend.stats().num_running == 0)
        assert backend.stats().requests_aborted == 0


async def test_g13_a_stopped_engine_is_killed_and_replaced(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.01), supervisor_limits=SILENCE_SOON) as backend:
        reply = asyncio.create_task(read(backend, ask("patience", 100, seed=3)))
        await asyncio.sleep(0.3)
        os.kill(backend.engine_pid or 0, signal.SIGSTOP)
        await until(lambda: backend.health().state == "restarting")
        assert await reply == expected_text("patience", 3, 100)
        assert backend.counters().engine_restarts == 1


async def test_an_engine_that_hangs_in_a_step_is_replaced_and_the_request_refused(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, supervisor_limits=SILENCE_SOON) as backend:
        with pytest.raises(RequestFailedError, match=r"request-\d+ was running when the engine died twice"):
            await read(backend, ask("HANG@2"))
        assert await read(backend, ask("next", 8)) == expected_text("next", 0, 8)


@pytest.mark.parametrize("at", [0, 5])
async def test_a_request_that_kills_the_engine_is_refused_and_the_others_go_on(tmp_path: Path, at: int) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.005)) as backend:
        good = [asyncio.create_task(read(backend, ask(f"good {i}", 150, seed=i))) for i in range(12)]
        await asyncio.sleep(0.1)
        request = ask(f"KILL@{at}", 50)
        poison = asyncio.create_task(read(backend, request))
        later = [asyncio.create_task(read(backend, ask(f"later {i}", 50, seed=i))) for i in range(4)]
        with pytest.raises(RequestFailedError, match=request.request_id):
            await poison
        assert await asyncio.gather(*good) == [expected_text(f"good {i}", i, 150) for i in range(12)]
        assert await asyncio.gather(*later) == [expected_text(f"later {i}", i, 50) for i in range(4)]
        assert backend.counters().engine_restarts <= (MAX_DEATHS if at else 4)  # by how many of its tokens were seen


async def test_two_requests_that_kill_the_engine_are_both_found(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.005)) as backend:
        good = [asyncio.create_task(read(backend, ask(f"good {i}", 100, seed=i))) for i in range(6)]
        bad = [asyncio.create_task(read(backend, ask("KILL@0"))) for _ in range(2)]
        results = await asyncio.gather(*bad, return_exceptions=True)
        assert [type(result) for result in results] == [RequestFailedError] * 2
        assert await asyncio.gather(*good) == [expected_text(f"good {i}", i, 100) for i in range(6)]


async def test_more_killers_than_the_supervisor_has_patience_cost_only_themselves(tmp_path: Path) -> None:
    """Nobody has a token before they are found, so that no engine between them looks like a success."""
    async with fault_backend(tmp_path, Script(step_s=0.005)) as backend:
        bad = [asyncio.create_task(read(backend, ask("KILL@0"))) for _ in range(2 * QUICK.max_failures)]
        good = [asyncio.create_task(read(backend, ask(f"good {i}", 40, seed=i))) for i in range(3)]
        results = await asyncio.gather(*bad, return_exceptions=True)
        assert [type(result) for result in results] == [RequestFailedError] * len(bad)
        assert await asyncio.gather(*good) == [expected_text(f"good {i}", i, 40) for i in range(3)]
        assert backend.health().state == "ready"


async def test_killers_in_mid_stream_cost_none_of_their_neighbours(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.005)) as backend:
        good = [asyncio.create_task(read(backend, ask(f"good {i}", 60, seed=i))) for i in range(6)]
        bad = [asyncio.create_task(read(backend, ask(f"KILL@{at}"))) for at in (1, 2, 3, 3, 9)]
        results = await asyncio.gather(*bad, return_exceptions=True)
        assert [type(result) for result in results] == [RequestFailedError] * len(bad)
        assert await asyncio.gather(*good) == [expected_text(f"good {i}", i, 60) for i in range(6)]


async def test_g15_g17_a_broken_device_ends_the_process_and_a_failed_step_does_not(tmp_path: Path) -> None:
    async with fault_backend(tmp_path) as backend:
        pid = backend.engine_pid
        with pytest.raises(RequestFailedError):
            await read(backend, ask("RAISE@1"))
        with pytest.raises(RequestFailedError, match="no usable numbers"):
            await read(backend, ask("NAN@1"))
        assert await read(backend, ask("next", 8)) == expected_text("next", 0, 8)
        assert backend.engine_pid == pid
        with pytest.raises(RequestFailedError):
            await read(backend, ask("LOST@1"))
        await until(lambda: backend.engine_pid not in (None, pid))
        assert await read(backend, ask("next", 8)) == expected_text("next", 0, 8)
        await until(lambda: backend.stats().kv_blocks_used == 0)


async def test_stop_strings_and_whole_replies_survive_a_death(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.01)) as backend:
        whole = expected_text("abc", 9, 80)
        stop = whole[70:74]
        assert whole.index(stop) == 70
        requests = [ask("abc", 80, seed=9, stream=stream, stop=(stop,)) for stream in (True, False)]
        replies = [asyncio.create_task(read(backend, request)) for request in requests]
        await asyncio.sleep(0.3)
        os.kill(backend.engine_pid or 0, signal.SIGKILL)
        assert await asyncio.gather(*replies) == [whole[:70]] * 2
        assert backend.counters().finished_by_reason == {"stop": 2}
        await until(lambda: backend.stats().num_running == 0)


async def test_a_cancelled_request_does_not_come_back_with_the_next_engine(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.01, load_s=0.3)) as backend:
        generation = await backend.generate(ask("gone", 1000))
        await anext(generation)
        os.kill(backend.engine_pid or 0, signal.SIGKILL)
        await until(lambda: backend.health().state == "restarting")
        generation.cancel()
        assert [deltas async for deltas in generation] == []
        await until(lambda: backend.health().state == "ready")
        assert await read(backend, ask("next", 8)) == expected_text("next", 0, 8)
        await until(lambda: backend.stats().steps > 0)
        assert backend.stats().prompt_tokens == len("next")


async def test_a_new_request_waits_for_the_next_engine_up_to_a_limit(tmp_path: Path) -> None:
    limits = BackendLimits(max_restart_wait_s=0.3)
    async with fault_backend(tmp_path, Script(load_s=1.5), limits=limits) as backend:
        os.kill(backend.engine_pid or 0, signal.SIGKILL)
        await until(lambda: backend.health().state == "restarting")
        with pytest.raises(EngineUnavailableError, match="restarting") as caught:
            await backend.generate(ask("early"))
        assert caught.value.retry_after_s >= 1
        await until(lambda: backend.health().state == "ready")
        assert await read(backend, ask("next", 8)) == expected_text("next", 0, 8)


async def test_an_engine_that_cannot_come_back_ends_everything_with_its_reason(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.01, fail_loads=(2, 3, 4, 5, 6, 7))) as backend:
        generation = await backend.generate(ask("long", 1000))
        os.kill(backend.engine_pid or 0, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match="cannot be started again"):
            async for _ in generation:
                pass
        assert backend.health().state == "dead"
        assert "planted lack of memory" in backend.health().detail
        with pytest.raises(EngineDeadError):
            await backend.generate(ask("next"))


async def test_failing_loads_are_tried_again(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(fail_loads=(1, 3, 4)), ready=False) as backend:
        with pytest.raises(EngineUnavailableError, match="still loading"):
            await backend.generate(ask("early"))
        await until(lambda: backend.health().state == "ready")
        assert backend.counters().engine_restarts == 1
        for prompt in ("first", "next"):
            assert await read(backend, ask(prompt, 8)) == expected_text(prompt, 0, 8)
            os.kill(backend.engine_pid or 0, signal.SIGKILL)
            await until(lambda: backend.health().state == "restarting")


async def test_a_permanent_error_is_not_tried_again(tmp_path: Path) -> None:
    script = Script(fail_loads=(1, 2, 3), permanent=True)
    async with fault_backend(tmp_path, script, ready=False) as backend:
        await until(lambda: backend.health().state == "dead")
        assert backend.health().detail == "a planted setting that is impossible"
        assert (tmp_path / "model" / "loads").read_text() == "x"
