"""The two servers that `http_layer` compares, over the same fake engine: the field's stack and ours.

`python -m benchmarks.http_layer_servers field|ours` prints its port and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from adapters.backend import (
    ChoiceDelta,
    ChoiceTimes,
    Generation,
    GenerationRequest,
    Health,
    ModelCard,
    PositionLogprobs,
    Prompt,
    RenderedPrompt,
    Usage,
)
from benchmarks import http_layer_models as models
from engine.request import EngineStats

MODEL = "bench"
TOKEN = " token"
QUIET_S = 0.15
"""The engine begins when no stream has joined for this long, so that all of a level run side by side."""


class Mailbox:
    """One stream: the engine puts one token, the consumer takes it and comes back for the next."""

    __slots__ = ("_engine", "left", "waiter")

    def __init__(self, engine: StepEngine, tokens: int) -> None:
        self._engine = engine
        self.left = tokens
        self.waiter: asyncio.Future[None] | None = None

    def next_token(self) -> asyncio.Future[None]:
        """To be awaited. The consumer is back for it: all before has been written."""
        engine = self._engine
        self.left -= 1
        self.waiter = waiter = engine.loop.create_future()
        engine.waiting.append(waiter)
        if len(engine.waiting) == engine.num_running:
            engine.loop.call_soon(engine.step)
        return waiter


class StepEngine:
    """Emits as fast as it can: one token to every stream, and again as soon as all have written theirs."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.num_running = 0
        """Streams; 0 until the first step."""
        self._streams: set[Mailbox] = set()
        self._timer: asyncio.TimerHandle | None = None

    def join(self, tokens: int) -> Mailbox:
        self.loop = asyncio.get_running_loop()
        mailbox = Mailbox(self, tokens)
        self._streams.add(mailbox)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(QUIET_S, self._begin)
        return mailbox

    def leave(self, mailbox: Mailbox) -> None:
        self._streams.discard(mailbox)
        if mailbox.waiter is not None and not mailbox.waiter.done():
            self.waiting.remove(mailbox.waiter)
        if self.num_running:
            self.num_running = len(self._streams)
            if self.waiting and len(self.waiting) == self.num_running:
                self.step()

    def _begin(self) -> None:
        self.num_running = len(self._streams)
        if self.waiting:
            self.step()

    def step(self) -> None:
        ready, self.waiting = self.waiting, []
        for waiter in ready:
            if not waiter.done():
                waiter.set_result(None)


# ---- ours


class BenchGeneration:
    __slots__ = ("_delta", "_done", "_engine", "_mailbox", "_request", "_tokens")

    prompt_token_ids: tuple[int, ...] = (1, 2, 3)
    prompt_text = "a b c"
    prompt_logprobs: tuple[PositionLogprobs | None, ...] = ()
    times: tuple[ChoiceTimes | None, ...] = ()

    def __init__(self, engine: StepEngine, request: GenerationRequest) -> None:
        self._engine = engine
        self._request = request
        self._tokens = request.params.max_tokens or 1
        self._mailbox = engine.join(self._tokens) if request.stream else None
        self._delta = (ChoiceDelta(0, content=TOKEN, token_ids=(7,)),)
        self._done = False

    def __aiter__(self) -> AsyncIterator[tuple[ChoiceDelta, ...]]:
        return self

    async def __anext__(self) -> tuple[ChoiceDelta, ...]:
        if self._done:
            raise StopAsyncIteration
        if self._mailbox is None:
            self._done = True
            await asyncio.sleep(0)
            return (ChoiceDelta(0, content=TOKEN * self._tokens, token_ids=(7,), finish_reason="length"),)
        await self._mailbox.next_token()
        if self._mailbox.left:
            return self._delta
        self._done = True
        return (ChoiceDelta(0, content=TOKEN, token_ids=(7,), finish_reason="length"),)

    @property
    def usage(self) -> Usage:
        return Usage(3, self._tokens, completion_tokens_by_choice=(self._tokens,))

    def cancel(self) -> None:
        if self._mailbox is not None:
            self._engine.leave(self._mailbox)


class BenchBackend:
    def __init__(self, engine: StepEngine) -> None:
        self._engine = engine
        self.card = ModelCard((MODEL,), MODEL, 0, 1 << 30, supports_thinking=False, supports_tools=False)

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    def health(self) -> Health:
        return Health("ready")

    def stats(self) -> EngineStats:
        return EngineStats()

    async def generate(self, request: GenerationRequest) -> Generation:
        return BenchGeneration(self._engine, request)

    def check_room(self, num_choices: int) -> None:
        return

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        return RenderedPrompt((1, 2, 3), "a b c")

    async def detokenize(self, token_ids: tuple[int, ...]) -> str:
        return ""


def serve_ours(listener: socket.socket) -> None:
    from oai_server.app import create_app, make_services
    from oai_server.protocol import GuardedConfig
    from oai_server.server import Server
    from oai_server.settings import Settings

    settings = Settings(access_log=False, max_tokens_per_request=1 << 40)
    backend = BenchBackend(StepEngine())
    services = make_services(settings, backend)
    app = create_app(settings, backend, services=services)
    Server(GuardedConfig(app, settings, max_connections=4096), services).run(sockets=[listener])


# ---- the field's way


def field_app() -> Any:
    """FastAPI with CORS, pydantic models in and out, StreamingResponse, `model_dump_json` per chunk."""
    from fastapi import FastAPI
    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.responses import JSONResponse, StreamingResponse

    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    engine = StepEngine()

    async def stream(request: models.ChatRequest, reply_id: str, created: int) -> AsyncIterator[str]:
        tokens = request.max_tokens or 1
        mailbox = engine.join(tokens)
        try:
            first = models.chunk(reply_id, created, MODEL, models.Delta(role="assistant", content=""))
            yield f"data: {first.model_dump_json(exclude_unset=True)}\n\n"
            while mailbox.left:
                await mailbox.next_token()
                reason = None if mailbox.left else "length"
                chunk = models.chunk(reply_id, created, MODEL, models.Delta(content=TOKEN), reason)
                yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            engine.leave(mailbox)

    @app.post("/v1/chat/completions")
    async def create(request: models.ChatRequest) -> Any:
        reply_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        if request.stream:
            return StreamingResponse(stream(request, reply_id, created), media_type="text/event-stream")
        await asyncio.sleep(0)
        reply = models.reply(reply_id, created, MODEL, TOKEN * (request.max_tokens or 1), request.max_tokens or 1)
        return JSONResponse(content=reply.model_dump())

    return app


def serve_field(listener: socket.socket) -> None:
    config = uvicorn.Config(field_app(), log_config=None, access_log=False, loop="uvloop", http="httptools")
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {0})
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    {"ours": serve_ours, "field": serve_field}[sys.argv[1]](listener)


if __name__ == "__main__":
    main()
