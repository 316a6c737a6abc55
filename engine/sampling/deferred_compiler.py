"""The grammar compiler of a model folder, built when it is first needed or when the start has calmed down."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError, RequestError
from engine.request import GrammarSpec
from engine.text.end_tokens import end_token_ids
from engine.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from engine.sampling.grammar_mask import GrammarCompiler, GrammarState

logger = logging.getLogger(__name__)

GRAMMAR_DELAY_S = 3.0
"""After the start: the first requests come before grammars that nobody has asked for yet."""
COMPILERS = 2
"""Grammars that are compiled at once: one that takes long does not hold up the others."""


class DeferredCompiler:
    """A `GrammarCompiler` that costs nothing at start. Safe to use from several threads."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._compiler: GrammarCompiler | None = None
        self._timer: threading.Timer | None = None
        self._under_way: dict[tuple[str, str], Future[None]] = {}
        """By kind and text."""
        self._threads = ThreadPoolExecutor(COMPILERS, "grammars")  # which begins no thread before it is needed

    def warm_later(self, delay_s: float) -> None:
        """Build it from a thread after `delay_s`, so that no request has to wait for it."""
        self._timer = threading.Timer(delay_s, self._warm)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Whatever has not begun will not."""
        if self._timer is not None:
            self._timer.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def begin(self, spec: GrammarSpec) -> Future[None] | None:
        """Compile it in a thread, so that `start` takes no time; None: it is known. The future fails as `start` does.
        Called by one thread alone."""
        if self._compiler is not None and self._compiler.knows(spec):
            return None
        key = spec.kind, spec.text
        self._under_way = {key: future for key, future in self._under_way.items() if not future.done()}
        if key not in self._under_way:
            self._under_way[key] = self._threads.submit(lambda: self._get().learn(spec))
        return self._under_way[key]

    def start(self, spec: GrammarSpec) -> GrammarState:
        """Raises RequestError when the grammar is none, or the folder has no tokenizer."""
        return self._get().start(spec)

    def _get(self) -> GrammarCompiler:
        with self._lock:
            if self._compiler is None:
                from engine.sampling.grammar_mask import GrammarCompiler  # its library is not needed at start

                try:
                    tokenizer = load_tokenizer(self._folder)
                except (EngineError, OSError) as error:
                    raise RequestError(f"Grammars need the model's tokenizer: {error}", "response_format") from error
                ends = end_token_ids(self._folder, tokenizer)
                self._compiler = GrammarCompiler(tokenizer, [i for i in ends if i < tokenizer.vocab_size])
            return self._compiler

    def _warm(self) -> None:
        try:
            self._get().warm()
        except RequestError as error:
            logger.info("%s", error)
