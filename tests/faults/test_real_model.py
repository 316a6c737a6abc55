"""kill -9 under the bundled model: greedy and sampled streams end whole, with the tokens of the fault-free run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.backend import ChatPrompt, GenerationParams, GenerationRequest, TextPrompt
from adapters.engine_backend import EngineBackend
from engine.config import EngineConfig
from tests.support.fault_backend import until

DEMO = Path(__file__).parents[2] / "oai_server" / "demo_model"
STREAMS = 64


@pytest.fixture
async def backend() -> AsyncIterator[EngineBackend]:
    if not list(DEMO.glob("*.safetensors")):
        pytest.skip("the demo model has no weights")
    # float32: with matrix units torch takes the long steps of a bfloat16 model, and rounds them in its own way.
    config = EngineConfig(model_path=str(DEMO), max_model_len=1024, num_threads=2, dtype="float32")
    backend = EngineBackend(config)
    await backend.start()
    await until(lambda: backend.health().state == "ready")
    yield backend
    await backend.stop()


def ask(i: int) -> GenerationRequest:
    """Greedy and sampled, with penalties, biases and logprobs; chats and texts."""
    params = GenerationParams(
        max_tokens=60,
        temperature=0.0 if i % 3 == 0 else 0.9,
        top_p=0.9 if i % 3 == 1 else None,
        top_k=20 if i % 4 == 1 else None,
        repetition_penalty=1.2 if i % 5 == 2 else None,
        frequency_penalty=0.5 if i % 5 == 3 else None,
        logprobs=2 if i % 7 == 3 else None,
        ignore_eos=i % 2 == 0,
        seed=1000 + i,
    )
    text = f"Tell me what number {i} is good for, in {i + 3} words. " * (1 + i % 5)
    prompt = ChatPrompt(({"role": "user", "content": text},)) if i % 2 else TextPrompt(text)
    return GenerationRequest(f"request-{i}", prompt, params, stream=i % 4 != 0)


async def token_ids(backend: EngineBackend, i: int) -> tuple[list[int], str, int]:
    generation = await backend.generate(ask(i))
    deltas = [delta async for batch in generation for delta in batch]
    ids = [token_id for delta in deltas for token_id in delta.token_ids]
    return ids, "".join(delta.content + delta.reasoning for delta in deltas), sum(len(d.logprobs) for d in deltas)


async def test_streams_survive_with_the_same_tokens(backend: EngineBackend) -> None:
    calm = await asyncio.gather(*(token_ids(backend, i) for i in range(STREAMS)))
    began = backend.stats().generated_tokens
    stormy = [asyncio.create_task(token_ids(backend, i)) for i in range(STREAMS)]
    await until(lambda: backend.stats().generated_tokens > began + 200)
    os.kill(backend.engine_pid or 0, signal.SIGKILL)
    assert [ids for ids, _, _ in calm] == [ids for ids, _, _ in await asyncio.gather(*stormy)]
    assert list(calm) == [task.result() for task in stormy]
    assert backend.counters().engine_restarts == 1
    await until(lambda: backend.stats().kv_blocks_used == 0)
