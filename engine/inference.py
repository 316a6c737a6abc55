"""The engine for Python users: text in, text out, in this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import msgspec

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.errors import ConfigurationError, RequestError, RequestFailedError
from engine.request import EngineRequest, EngineStats, FinishReason, RequestOutput
from engine.runner.factory import build_runner
from engine.sampling_params import SamplingParams
from engine.text.detokenizer import Detokenizer
from engine.text.end_tokens import end_token_ids
from engine.text.tokenizer import Tokenizer, load_tokenizer


class Generation(str):
    """The generated text, with the tokens it was made of."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason

    def __new__(cls, text: str, token_ids: Seq[int], finish_reason: FinishReason) -> Generation:
        generation = super().__new__(cls, text)
        generation.token_ids = tuple(token_ids)
        generation.finish_reason = finish_reason
        return generation


class _Reply:
    """What one request has produced so far."""

    def __init__(self, tokenizer: Tokenizer, prompt: Seq[int]) -> None:
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._failure: RequestOutput | None = None
        self._detokenizer = Detokenizer(tokenizer, prompt_token_ids=prompt)
        self._parts: list[str] = []

    def take(self, output: RequestOutput) -> list[tuple[int, str]]:
        """The output's tokens, each with the text that became complete with it."""
        pairs = [(token, self._detokenizer.feed([token])) for token in output.token_ids]
        self.token_ids += output.token_ids
        self._parts += [text for _, text in pairs]
        self.finish_reason = output.finish_reason
        self._failure = output if output.finish_reason == "error" else None
        return pairs

    def check(self) -> None:
        """Raises where the engine gave this request up: RequestError if the request is to blame."""
        if (failure := self._failure) is None:
            return
        if failure.fault is None:
            raise RequestFailedError(failure.error)
        raise RequestError(failure.error, failure.fault.param, failure.fault.code)

    def result(self) -> Generation:
        self.check()
        return Generation("".join(self._parts), self.token_ids, self.finish_reason or "abort")


class InferenceEngine:
    """A model with its scheduler and KV cache, driven by whoever calls. Not thread-safe.

    >>> engine = InferenceEngine("path/to/model")
    >>> engine.generate(["Hello", "AI is"], max_tokens=100)
    >>> for token_id, text in engine.stream_generate("AI 的未来是", max_tokens=50): ...
    """

    def __init__(self, model_path: str | Path, **settings: Any) -> None:
        """`settings` are the fields of EngineConfig. Raises ConfigurationError and ModelLoadError."""
        try:
            config = msgspec.convert({"model_path": str(model_path), **settings}, EngineConfig)
        except msgspec.ValidationError as error:
            raise ConfigurationError(str(error)) from error
        if unknown := set(settings) - set(EngineConfig.__struct_fields__):
            raise ConfigurationError(f"unknown settings: {', '.join(sorted(unknown))}")
        self.tokenizer = load_tokenizer(config.model_path)
        self._eos_token_ids = end_token_ids(config.model_path, self.tokenizer)
        runner, self.info = build_runner(config, lambda phase, fraction, detail: None)
        runner.warm_up()
        self._core = EngineCore(config, runner)
        self._runner = runner
        self._config_seed = config.seed
        self._numbers = itertools.count()
        self._replies: dict[str, _Reply] = {}
        self._pairs: dict[str, list[tuple[int, str]]] = {}

    def generate(
        self, prompts: str | Seq[str], sampling: SamplingParams | None = None, **parameters: Any
    ) -> list[Generation]:
        """One Generation a prompt, in order, all of them batched. `parameters` are fields of SamplingParams.

        Raises ConfigurationError for parameters that are none, and RequestError where a prompt cannot be served; the
        others are dropped then.
        """
        sampling = self._sampling(sampling, parameters)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        names: list[str] = []
        try:
            names += (self._submit(text, sampling) for text in texts)
            while any(self._replies[name].finish_reason is None for name in names):
                self._step()
            return [self._replies[name].result() for name in names]
        finally:
            self._drop(names)

    def stream_generate(
        self, prompt: str, sampling: SamplingParams | None = None, **parameters: Any
    ) -> Iterator[tuple[int, str]]:
        """(token id, text that it completed) as they come; the text may be empty in the middle of a character."""
        name = self._submit(prompt, self._sampling(sampling, parameters))
        reply = self._replies[name]
        try:
            while reply.finish_reason is None or name in self._pairs:  # others' steps may have filled it meanwhile
                if name not in self._pairs:
                    self._step()
                yield from self._pairs.pop(name, ())
            reply.check()
        finally:
            self._drop([name])

    def stats(self) -> EngineStats:
        return self._core.stats()

    def close(self) -> None:
        """Give the device's memory back; the engine cannot be used afterwards."""
        self._runner.close()

    def _sampling(self, sampling: SamplingParams | None, parameters: dict[str, Any]) -> SamplingParams:
        if unknown := set(parameters) - set(SamplingParams.__struct_fields__):
            raise ConfigurationError(f"unknown sampling parameters: {', '.join(sorted(unknown))}")
        values = {**msgspec.structs.asdict(sampling or SamplingParams()), **parameters}
        try:
            sampling = msgspec.convert(values, SamplingParams)  # a list becomes the tuple that is meant
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"sampling parameters: {error}") from None
        if "eos_token_ids" not in parameters and not sampling.eos_token_ids:
            sampling = msgspec.structs.replace(sampling, eos_token_ids=self._eos_token_ids)
        return sampling

    def _submit(self, prompt: str, sampling: SamplingParams) -> str:
        token_ids = tuple(self.tokenizer.encode(prompt, control_tokens=True))
        if not token_ids:
            raise RequestError("The prompt is empty.", "prompt")
        number = next(self._numbers)
        if sampling.seed is None:
            sampling = msgspec.structs.replace(sampling, seed=self._seed_of(number))
        name = f"request-{number}"
        self._core.add_request(EngineRequest(name, token_ids, sampling=sampling))
        self._replies[name] = _Reply(self.tokenizer, token_ids)
        return name

    def _seed_of(self, number: int) -> int:
        """Requests of one engine differ, and a new engine with the same `seed` setting repeats them."""
        return (self._config_seed << 32) + number

    def _step(self) -> None:
        for output in self._core.step():
            if (reply := self._replies.get(output.request_id)) is not None:
                self._pairs.setdefault(output.request_id, []).extend(reply.take(output))

    def _drop(self, names: list[str]) -> None:
        for name in names:
            self._core.cancel(name)
            self._replies.pop(name, None)
            self._pairs.pop(name, None)
