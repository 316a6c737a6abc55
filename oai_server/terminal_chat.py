"""`oai-server generate` and `oai-server chat`: the engine's backend without HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator
from typing import Any

from rich.console import Console

from adapters.backend import ChatPrompt, GenerationParams, GenerationRequest, Prompt, TextPrompt
from adapters.engine_backend import EngineBackend
from engine.errors import EngineError
from oai_server.settings import Settings
from oai_server.start import backend_options, resolve
from oai_server.terminal import stderr_console, watch_start

HELP = "/new forgets the conversation, /quit leaves; Ctrl-C stops an answer"
_numbers = itertools.count()


@contextlib.asynccontextmanager
async def running_backend(settings: Settings) -> AsyncIterator[EngineBackend]:
    """A ready engine for the length of the block."""
    settings = resolve(settings)
    backend = EngineBackend(settings.engine_config(), backend_options(settings))
    await backend.start()
    try:
        await watch_start(backend, stderr_console())
        yield backend
    finally:
        await backend.stop()


async def generate_once(settings: Settings, text: str, max_tokens: int, temperature: float | None) -> int:
    """Print `text` and its continuation as it comes."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    async with running_backend(settings) as backend:
        console.print(text, end="")
        params = GenerationParams(max_tokens=max_tokens, temperature=temperature)
        await _print_answer(backend, TextPrompt(text), params, console)
        console.print()
    return 0


async def chat_loop(settings: Settings, system: str | None, thinking: bool) -> int:
    """Read a line, stream the answer, remember both."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    async with running_backend(settings) as backend:
        console.print(f"{backend.card.ids[0]}: {HELP}", style="dim")
        opening: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages = list(opening)
        while (line := await _read_line()) is not None:
            if line == "/quit":
                break
            if line == "/new":
                messages = list(opening)
            elif line:
                messages.append({"role": "user", "content": line})
                prompt = ChatPrompt(tuple(messages), chat_template_kwargs={"enable_thinking": thinking})
                try:
                    answer = await _print_answer(backend, prompt, GenerationParams(), console)
                except EngineError as error:
                    console.print(f"error: {error}", style="red")
                    messages.pop()
                    continue
                console.print()
                messages.append({"role": "assistant", "content": answer})
    return 0


async def _read_line() -> str | None:
    try:
        line = await asyncio.get_running_loop().run_in_executor(None, input, "> ")
    except EOFError:
        return None
    return line.strip()


async def _print_answer(backend: EngineBackend, prompt: Prompt, params: GenerationParams, console: Console) -> str:
    """Stream to the terminal, thinking dimmed; Ctrl-C ends the answer and keeps what came."""
    request = GenerationRequest(f"terminal-{next(_numbers)}", prompt, params, stream=True)
    generation = await backend.generate(request)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, generation.cancel)
    answer = ""
    try:
        async for deltas in generation:
            for delta in deltas:
                console.print(delta.reasoning, end="", style="dim")
                console.print(delta.content, end="")
                answer += delta.content
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return answer
