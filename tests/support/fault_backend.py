"""An EngineBackend over a real engine process that runs `fault_runner`, and a way to read whole replies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from adapters.backend import GenerationParams, GenerationRequest, TextPrompt
from adapters.backend_options import BackendLimits, BackendOptions
from adapters.engine_backend import EngineBackend
from engine.config import EngineConfig
from engine.process.supervisor import SupervisorLimits
from tests.support.fault_checkpoint import write_fault_checkpoint
from tests.support.fault_runner import Script
from tests.support.patience import PATIENCE_S

RUNNER = "tests.support.fault_runner:build"
QUICK = SupervisorLimits(backoff_s=(0.0, 0.05, 0.1), max_failures=3)
_numbers = itertools.count()


@contextlib.asynccontextmanager
async def fault_backend(
    folder: Path,
    script: Script | None = None,
    *,
    limits: BackendLimits | None = None,
    supervisor_limits: SupervisorLimits | None = None,
    ready: bool = True,
    **config: object,
) -> AsyncIterator[EngineBackend]:
    """Started, and stopped at the end. `config`: fields of EngineConfig."""
    model = write_fault_checkpoint(folder / "model", script)
    backend = EngineBackend(
        EngineConfig(model_path=str(model), **config),  # type: ignore[arg-type]
        BackendOptions(limits=limits or BackendLimits()),
        supervisor_limits=supervisor_limits or QUICK,
        runner=RUNNER,
    )
    await backend.start()
    try:
        if ready:
            await until(lambda: backend.health().state == "ready")
        yield backend
    finally:
        await backend.stop()


def limits_of(script: Script) -> SupervisorLimits:
    """Patient with silence, which a busy machine causes too, unless the script is about it."""
    return msgspec.structs.replace(QUICK, hang_timeout_s=script.silence_s, idle_timeout_s=script.silence_s)


def ask(
    prompt: str, max_tokens: int = 32, seed: int = 0, *, stream: bool = True, **params: object
) -> GenerationRequest:
    sampling = GenerationParams(max_tokens=max_tokens, seed=seed, **params)  # type: ignore[arg-type]
    return GenerationRequest(f"request-{next(_numbers)}", TextPrompt(prompt), sampling, stream=stream)


async def read(backend: EngineBackend, request: GenerationRequest) -> str:
    """The whole text of choice 0."""
    generation = await backend.generate(request)
    return "".join([delta.content async for deltas in generation for delta in deltas if delta.index == 0])


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
