"""What a person sees while the server starts: a progress bar with GB/s, then a dozen lines that say what runs."""

from __future__ import annotations

import asyncio
import logging
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from adapters.backend import Backend, Health
from engine.errors import ModelLoadError
from engine.process.messages import EngineInfo
from oai_server.settings import Settings

logger = logging.getLogger("oai_server")

POLL_S = 0.05


async def watch_start(backend: Backend, console: Console) -> None:
    """Until the backend is ready: a bar on a terminal, one log line a phase elsewhere.

    Raises ModelLoadError with the engine's own words when it cannot start.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    phase = ""
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("engine", total=1.0, detail="")
        while (health := backend.health()).state != "ready":
            if health.state == "dead":
                raise ModelLoadError(health.detail or "the engine could not start")
            progress.update(
                task, description=health.phase or "engine", completed=health.fraction, detail=health.detail
            )
            if health.phase != phase and not console.is_terminal:
                logger.info("%s", _phase_line(health))
            phase = health.phase
            await asyncio.sleep(POLL_S)


def _phase_line(health: Health) -> str:
    return f"loading: {health.phase} {health.detail}".rstrip()


def banner(settings: Settings, name: str, info: EngineInfo, url: str, start_s: float) -> list[str]:
    """The start-up log: model, device, memory, limits, where to go, and a command to paste."""
    weights_gb = info.weights_bytes / 1e9
    tokens = (info.num_blocks - 1) * info.block_size
    full = tokens / info.max_model_len
    keys = "an API key is required" if settings.api_key else "no API key needed"
    return [
        f"model      {name} ({info.architecture}, {info.dtype}, {weights_gb:.2f} GB in {info.load_s:.1f} s)",
        f"device     {info.device}",
        f"attention  {info.attention_backend}: {info.attention_reason}",
        f"KV cache   {info.num_blocks - 1} blocks of {info.block_size} tokens, {info.kv_cache_bytes / 1e9:.2f} GB; "
        f"holds {tokens} tokens ({full:.1f} sequences of full length)",
        f"limits     {info.max_model_len} tokens a sequence, {info.max_num_seqs} sequences at once, "
        f"{info.max_num_batched_tokens} tokens a step, {settings.max_num_queued_reqs} may queue",
        f"policy     {info.policy}",
        f"ready      after {start_s:.1f} s",
        f"server     {url} ({keys}); a page to try it is at {url}/",
        "try        " + curl_line(settings, url),
    ]


def curl_line(settings: Settings, url: str) -> str:
    key = " -H 'Authorization: Bearer KEY'" if settings.api_key else ""
    body = '{"messages": [{"role": "user", "content": "Hello! Who are you?"}]}'
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"


def stderr_console() -> Console:
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)
