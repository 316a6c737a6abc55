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
    from engine.sampling.grammar_mask import CompiledGrammar, GrammarCompiler, GrammarState

logger = logging.getLogger(__name__)

COMPILERS = 2
"""Grammars that are compiled at once: one that takes long does not hold up the others."""


class DeferredCompiler:
    """A `GrammarCompiler` that costs nothing at start. Safe to use from several threads."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._compiler: GrammarCompiler | None = None
        self._under_way: dict[tuple[str, str], Future[CompiledGrammar]] = {}
        """By kind and text."""
        self._threads = ThreadPoolExecutor(COMPILERS, "grammars")  # which begins no thread before it is needed

    def warm(self) -> None:
        """Begin, in a thread, what the first grammar will need. It holds up other threads for up to a second."""
        self._threads.submit(self._warm)

    def close(self) -> None:
        """Whatever has not begun will not."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def begin(self, spec: GrammarSpec) -> Future[CompiledGrammar]:
        """Compile it in a thread, unless it is known. As long as the result is kept, `start` takes no time. The
        future fails as `start` does. Called by one thread alone."""
        if self._compiler is not None and (known := self._compiler.known(spec)) is not None:
            done: Future[CompiledGrammar] = Future()
            done.set_result(known)
            return done
        key = spec.kind, spec.text
        self._under_way = {key: future for key, future in self._under_way.items() if not future.done()}
        if key not in self._under_way:
            self._under_way[key] = self._threads.submit(lambda: self._get().compiled(spec))
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
