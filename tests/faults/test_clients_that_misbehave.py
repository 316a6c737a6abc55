"""Clients that leave, do not read, come in crowds or ask for too much time; over a real engine process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from adapters.backend_options import BackendLimits
from engine.errors import DeadlineExceededError, EngineOverloadedError, RequestFailedError
from tests.support.fault_backend import ask, fault_backend, read, until
from tests.support.fault_runner import Script, expected_text


async def test_a_thousand_clients_leave_and_no_block_stays_in_use(tmp_path: Path) -> None:
    limits = BackendLimits(max_waiting_requests=4000)
    async with fault_backend(tmp_path, Script(step_s=0.002), limits=limits) as backend:
        control = asyncio.create_task(read(backend, ask("control", 300, seed=1)))

        async def leave_in_mid_stream(i: int) -> None:
            generation = await backend.generate(ask(f"leaver {i}", 1500, seed=i, n=1 + i % 3, stream=i % 2 == 0))
            if i % 3:  # the others leave while they wait
                await asyncio.wait((asyncio.ensure_future(anext(generation)),), timeout=0.3)
            generation.cancel()
            generation.cancel()

        await asyncio.gather(*(leave_in_mid_stream(i) for i in range(1000)))
        assert await control == expected_text("control", 1, 300)
        await until(lambda: backend.stats().kv_blocks_used == 0 and backend.stats().num_waiting == 0)
        counted = backend.counters().finished_by_reason
        assert counted["abort"] == sum(1 + i % 3 for i in range(1000))
        assert counted["length"] == 1


async def test_g06_everyone_of_a_crowd_is_answered_or_refused(tmp_path: Path) -> None:
    limits = BackendLimits(max_waiting_requests=16)
    script = Script(step_s=0.002, max_num_seqs=8)
    async with fault_backend(tmp_path, script, limits=limits, max_num_seqs=8) as backend:
        crowd = [asyncio.create_task(read(backend, ask(f"one of {i}", 20, seed=i))) for i in range(240)]
        refused: list[int] = []

        async def outcome(i: int) -> bool:
            try:
                assert await crowd[i] == expected_text(f"one of {i}", i, 20)
            except EngineOverloadedError as error:
                assert error.retry_after_s >= 1
                refused.append(i)
                return False
            return True

        answered = await asyncio.gather(*(outcome(i) for i in range(240)))
        assert 24 <= sum(answered) < 240
        assert backend.counters().refused == answered.count(False) == len(refused)
        assert await read(backend, ask("next", 8)) == expected_text("next", 0, 8)


async def test_too_many_choices_count_as_a_crowd(tmp_path: Path) -> None:
    limits = BackendLimits(max_waiting_requests=4)
    async with fault_backend(tmp_path, Script(max_num_seqs=2), limits=limits, max_num_seqs=2) as backend:
        with pytest.raises(EngineOverloadedError):
            await backend.generate(ask("many", n=7))
        generation = await backend.generate(ask("fewer", 4, n=6))
        last = {delta.index: delta async for deltas in generation for delta in deltas}
        assert sorted(last) == list(range(6))
        assert generation.usage.completion_tokens_by_choice == (4,) * 6


async def test_who_waits_too_long_is_refused(tmp_path: Path) -> None:
    limits = BackendLimits(max_queue_wait_s=1.0)
    async with fault_backend(tmp_path, Script(step_s=0.01), limits=limits, max_num_seqs=1) as backend:
        running = asyncio.create_task(read(backend, ask("running", 250)))
        await until(lambda: backend.stats().num_running == 1)
        with pytest.raises(EngineOverloadedError, match="waited in the queue"):
            await read(backend, ask("x" * 400, 5))
        assert await running == expected_text("running", 0, 250)


async def test_a_deadline_ends_a_request_with_what_there_was(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.01)) as backend:
        request = ask("endless", 1900, seed=4)
        request = type(request)(request.request_id, request.prompt, request.params, stream=True, deadline_s=1.5)
        generation = await backend.generate(request)
        text = ""
        with pytest.raises(DeadlineExceededError, match=r"within 1\.5 s"):
            async for deltas in generation:
                text += "".join(delta.content for delta in deltas)
        assert text
        assert expected_text("endless", 4, 1900).startswith(text)
        await until(lambda: backend.stats().num_running == 0)


async def test_a_stream_that_nobody_reads_is_cancelled(tmp_path: Path) -> None:
    limits = BackendLimits(max_unread_tokens=50, max_unread_s=0.2)
    async with fault_backend(tmp_path, Script(step_s=0.002), limits=limits) as backend:
        generation = await backend.generate(ask("unread", 1900))
        await until(lambda: backend.counters().finished_by_reason.get("error") == 1)
        assert await anext(generation)
        with pytest.raises(RequestFailedError, match="did not read"):
            await anext(generation)
        await until(lambda: backend.stats().kv_blocks_used == 0)


async def test_a_consumer_that_is_behind_gets_all_at_once(tmp_path: Path) -> None:
    async with fault_backend(tmp_path, Script(step_s=0.001)) as backend:
        generation = await backend.generate(ask("late", 40))
        await until(lambda: backend.counters().finished_by_reason.get("length") == 1)
        batches = [deltas async for deltas in generation]
        assert len(batches) == 1
        assert [delta.content for delta in batches[0]] == [expected_text("late", 0, 40)]
        assert batches[0][0].finish_reason == "length"


async def test_c08_prompts_of_megabytes_are_refused_without_tokenizing(tmp_path: Path) -> None:
    async with fault_backend(tmp_path) as backend:
        begin_s = time.process_time()
        with pytest.raises(Exception, match="maximum context length is 2048 tokens"):
            await backend.generate(ask("x" * 50_000_000))
        assert time.process_time() - begin_s < 1  # seconds of work; to tokenize it takes many
