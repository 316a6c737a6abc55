"""`oai-server serve`: the checkpoint, the engine's backend, the routes and the page, put together."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from adapters.admission import QueueCounts
from adapters.backend_options import BackendLimits, BackendOptions
from adapters.engine_backend import EngineBackend
from engine.config import EngineConfig
from engine.errors import EngineError
from oai_server.lifecycle import Worker, serve
from oai_server.model_source import locate_model
from oai_server.playground import playground_routes
from oai_server.settings import Settings
from oai_server.shared_counts import SharedQueue

if TYPE_CHECKING:
    from adapters.engine_host import EngineHost

logger = logging.getLogger("oai_server")


def run_server(settings: Settings) -> int:
    """Serve until a signal comes; the exit code."""
    announcement = Announcement(resolve(settings))
    return serve(
        announcement.settings,
        announcement.make_backend if settings.api_workers == 1 else make_backend,
        make_host=make_host,
        make_routes=playground_routes,
        on_listening=announcement.on_listening,
    )


def resolve(settings: Settings) -> Settings:
    """`settings` with a local folder as model, and the name that replies carry."""
    source = locate_model(settings)
    names = settings.served_model_name or (source.name,)
    return msgspec.structs.replace(settings, model=str(source.folder), served_model_name=names)


def backend_options(settings: Settings) -> BackendOptions:
    """The backend's share of the settings."""
    return BackendOptions(
        served_names=settings.served_model_name,
        generation_config=settings.generation_config,
        chat_template=settings.chat_template,
        default_chat_template_kwargs=settings.default_chat_template_kwargs,
        tool_call_parser=settings.tool_call_parser,
        reasoning_parser=settings.reasoning_parser,
        limits=BackendLimits(
            max_waiting_requests=max(1, settings.max_num_queued_reqs),
            max_queue_wait_s=settings.max_queue_wait,
            max_restart_wait_s=min(60.0, settings.max_queue_wait),
            max_deadline_s=settings.request_timeout,
            template_timeout_s=settings.template_timeout,
            grammar_timeout_s=settings.grammar_timeout,
            max_n=settings.max_n,
            max_logprobs=settings.max_logprobs,
            max_stop=settings.max_stop,
            max_stop_chars=settings.max_stop_chars,
            max_stop_token_ids=settings.max_stop_token_ids,
            max_bad_words=settings.max_bad_words,
            max_logit_bias=settings.max_logit_bias,
            max_allowed_token_ids=settings.max_allowed_token_ids,
        ),
    )


def make_backend(settings: Settings, worker: Worker) -> EngineBackend:
    """The backend of one HTTP process. A function of the module, since workers are spawned."""
    return EngineBackend(
        settings.engine_config(), backend_options(settings), run_dir=worker.run_dir, counts=queue_counts(worker)
    )


def queue_counts(worker: Worker) -> QueueCounts | None:
    """Where several HTTP processes share an engine: what they have in work together."""
    if worker.metrics_dir is None:
        return None
    return SharedQueue(Path(worker.metrics_dir), worker.index, worker.count)


def make_host(settings: Settings) -> EngineHost:
    """The engine's owner when several HTTP processes share it."""
    from adapters.engine_host import EngineHost

    return EngineHost(settings.engine_config())


class Announcement:
    """Tells a person how the start goes and what came of it. For one HTTP process, which owns the engine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._begin_s = time.monotonic()
        self._url = ""

    def on_listening(self, url: str) -> None:
        self._url = url

    def make_backend(self, settings: Settings, worker: Worker) -> EngineBackend:
        return WatchedBackend(settings.engine_config(), backend_options(settings), self.announce)

    async def announce(self, backend: EngineBackend) -> None:
        terminal = await asyncio.to_thread(importlib.import_module, "oai_server.terminal")  # rich, beside the start
        try:
            await terminal.watch_start(backend, terminal.stderr_console())
        except EngineError as error:
            logger.error("%s", error)
            return
        if backend.info is not None:
            name = self.settings.served_model_name[0]
            for line in terminal.banner(
                self.settings, name, backend.info, self._url, time.monotonic() - self._begin_s
            ):
                logger.info("%s", line)


class WatchedBackend(EngineBackend):
    """A backend whose start somebody watches."""

    def __init__(
        self,
        config: EngineConfig,
        options: BackendOptions,
        watch: Callable[[EngineBackend], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(config, options)
        self._watch = watch

    async def start(self) -> None:
        await super().start()
        self._watching = asyncio.create_task(self._watch(self), name="watch-start")

    async def stop(self) -> None:
        self._watching.cancel()  # a start that is called off has not failed
        await super().stop()
