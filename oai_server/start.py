"""`oai-server serve`: the checkpoint, the engine's backend, the routes and the page, put together."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from adapters.admission import QueueCounts
from adapters.backend_options import BackendLimits, BackendOptions
from adapters.engine_backend import EngineBackend
from engine.errors import EngineError
from oai_server.lifecycle import serve
from oai_server.model_source import locate_model
from oai_server.playground import playground_routes
from oai_server.settings import Settings
from oai_server.shared_counts import SharedQueue
from oai_server.worker import Worker

if TYPE_CHECKING:
    from adapters.engine_host import EngineHost

logger = logging.getLogger("oai_server")


def run_server(settings: Settings) -> int:
    """Serve until a signal comes; the exit code."""
    return serve(resolve(settings), make_backend, make_host=make_host, make_routes=playground_routes)


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
    """The backend of one HTTP process, the first of which tells how the start goes."""
    if worker.index == 0:
        return AnnouncedBackend(settings, worker)
    config, options = settings.engine_config(), backend_options(settings)
    return EngineBackend(config, options, run_dir=worker.run_dir, counts=queue_counts(worker))


def queue_counts(worker: Worker) -> QueueCounts | None:
    """Where several HTTP processes share an engine: what they have in work together."""
    if worker.metrics_dir is None:
        return None
    return SharedQueue(worker.metrics_dir, worker.index, worker.count)


def make_host(settings: Settings) -> EngineHost:
    """The engine's owner when several HTTP processes share it."""
    from adapters.engine_host import EngineHost

    return EngineHost(settings.engine_config())


class AnnouncedBackend(EngineBackend):
    """Tells a person how its start goes and what came of it."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        config, options = settings.engine_config(), backend_options(settings)
        super().__init__(config, options, run_dir=worker.run_dir, counts=queue_counts(worker))
        self._settings = settings
        self._worker = worker

    async def start(self) -> None:
        await super().start()
        self._announcing = asyncio.create_task(self._announce(), name="announce")

    async def stop(self) -> None:
        self._announcing.cancel()  # a start that is called off has not failed
        await super().stop()

    async def _announce(self) -> None:
        terminal = await asyncio.to_thread(importlib.import_module, "oai_server.terminal")  # rich, beside the start
        try:
            await terminal.watch_start(self, terminal.stderr_console())
        except EngineError as error:
            logger.error("%s", error)
            return
        if self.info is not None:
            name, start_s = self._settings.served_model_name[0], time.monotonic() - self._worker.began_s
            for line in terminal.banner(self._settings, name, self.info, self._worker.url, start_s):
                logger.info("%s", line)
