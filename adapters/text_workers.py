"""The text side's work: in the event loop when it is short, in a thread when it is not."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from adapters.backend import ChatPrompt, GenerationRequest, Prompt, RenderedPrompt
from adapters.checks import ModelFacts
from adapters.patience import INLINE, InlineTrust, OutOfPatienceError
from adapters.prompts import EncodedPrompt, ModelText, chars_in, check_render_length, num_chars

INLINE_CHARS = 4_000
"""Prompts up to this length are tokenized in the event loop: about half a millisecond at most."""
TEXT_THREADS = 2


class TextWorkers:
    """Encodes, renders and decodes for the requests of one event loop."""

    def __init__(self, text: ModelText) -> None:
        self.text = text
        self._pool = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="text")
        self._trust = InlineTrust()

    async def encode(self, request: GenerationRequest, facts: ModelFacts) -> EncodedPrompt:
        if _is_short(request) and (not isinstance(request.prompt, ChatPrompt) or self._trust.allows_next()):
            try:
                return self.text.encode(request, facts, INLINE)
            except OutOfPatienceError:
                self._trust.lose()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.text.encode, request, facts)

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        """Everything /tokenize shows of a prompt. Raises RequestError for one of more than MAX_RENDER_CHARS."""
        check_render_length(prompt)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._render, prompt)

    async def detokenize(self, token_ids: tuple[int, ...]) -> str:
        if len(token_ids) <= INLINE_CHARS:
            return self.text.tokenizer.decode(token_ids)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.text.tokenizer.decode, token_ids)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _render(self, prompt: Prompt) -> RenderedPrompt:
        encoded = self.text.render(prompt)
        token_text = self.text.tokenizer.token_text
        return RenderedPrompt(encoded.token_ids, encoded.text, tuple([token_text(i) for i in encoded.token_ids]))


def _is_short(request: GenerationRequest) -> bool:
    """Whether encoding it is a matter of less than a millisecond, unless the template is slow."""
    prompt, chars = request.prompt, sum(map(len, request.params.bad_words))
    if isinstance(prompt, ChatPrompt):
        if prompt.forces_call or prompt.offers_strict_tools:  # their schemas are compiled
            return False
        everything = (prompt.messages, prompt.tools, prompt.chat_template_kwargs, prompt.documents)
        return chars + chars_in(everything, INLINE_CHARS, per_item=1) <= INLINE_CHARS
    return chars + num_chars(prompt) <= INLINE_CHARS
