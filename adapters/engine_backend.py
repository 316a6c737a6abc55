"""The Backend over our own engine: checks, encodes, admits, submits, and keeps requests alive while engines die."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import shutil
import time
from pathlib import Path

import msgspec

from adapters.admission import Admission, OwnCounts, QueueCounts
from adapters.backend import GenerationRequest, Health, HealthState, ModelCard, Prompt, RenderedPrompt
from adapters.backend_options import BackendOptions
from adapters.checks import ModelFacts, check_params, sampling_params, seed_of_choice
from adapters.engine_link import EngineLink
from adapters.mailbox import EngineGeneration
from adapters.output_plans import output_plan
from adapters.patience import LoopTurn
from adapters.prompts import EncodedPrompt, ModelText, param_of
from adapters.text_workers import TextWorkers
from adapters.trial_turns import TrialTurns
from engine.config import EngineConfig
from engine.errors import DeadlineExceededError, EngineDeadError, EngineError, EngineUnavailableError
from engine.models.config import load_model_config
from engine.process.messages import EngineInfo
from engine.process.run_dir import make_run_dir
from engine.process.shared_state import SharedState, read_state
from engine.process.supervisor import DEFAULT_RUNNER, Supervisor, SupervisorLimits
from engine.request import EngineRequest, EngineStats

logger = logging.getLogger(__name__)

MAX_TOKENS = 2**31 - 1
NOT_RUNNING = "The engine is not running and cannot be started again."
"""What clients hear; the reason, which may name paths, stands in the log and in `health`."""

WATCH_INTERVAL_S = 1.0
"""How often a front without a supervisor of its own looks after its connection."""


class BackendCounters(msgspec.Struct, frozen=True):
    """Only grow. For /metrics."""

    finished_by_reason: dict[str, int]
    """Sequences: stop, length, abort (the client left), error."""
    refused: int
    """Requests that the queue's bounds turned away."""
    engine_restarts: int


class EngineBackend:
    """One served model. With `run_dir` the engine is supervised elsewhere, and this is one of several fronts."""

    def __init__(
        self,
        config: EngineConfig,
        options: BackendOptions | None = None,
        *,
        run_dir: str | None = None,
        counts: QueueCounts | None = None,
        supervisor_limits: SupervisorLimits | None = None,
        runner: str = DEFAULT_RUNNER,
    ) -> None:
        """`counts`: with several fronts, what they count together.

        `runner`: `module:function` that builds the engine's runner; another one than the default is for tests.
        """
        self._config = config
        self._options = options or BackendOptions()
        self._given_run_dir = run_dir
        self._counts: QueueCounts = OwnCounts() if counts is None else counts
        self._admission = Admission(self._counts, self._options.limits)
        self._changed = asyncio.Event()
        self._supervisor_limits = supervisor_limits
        self._supervisor: Supervisor | None = None
        self._runner = runner
        self._created = int(time.time())
        self._text_error: EngineError | None = None
        self._workers: TextWorkers | None = None
        self._facts: ModelFacts | None = None
        self._shared = SharedState()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._numbers = itertools.count()
        self._id_prefix = f"{random.SystemRandom().getrandbits(32):x}"
        self._seeds = random.SystemRandom()
        self._turn = LoopTurn()

    # ---- life

    async def start(self) -> None:
        """Starts the engine and reads the checkpoint's small files; returns before either is done."""
        self._run_dir = self._given_run_dir or make_run_dir()
        self._link = EngineLink(
            self._run_dir,
            self._on_change,
            self._on_culprit,
            counts=self._counts,
            turns=TrialTurns(self._run_dir) if self._given_run_dir is not None else None,
        )
        self._link.client.open()
        if self._given_run_dir is None:
            self._supervisor = Supervisor(
                self._config,
                self._run_dir,
                self._link.client,
                lambda _state: self._on_change(),
                limits=self._supervisor_limits,
                runner=self._runner,
                log_level=logging.getLevelName(logger.getEffectiveLevel()),
            )
            self._supervisor.start()
        else:
            self._tasks.append(asyncio.create_task(self._watch_connection(), name="engine-watch"))
        self._tasks.append(asyncio.create_task(self._load_text(), name="load-text"))

    async def stop(self) -> None:
        """Ends the engine (if it is ours). Requests that still run end with EngineDeadError."""
        if self._stopped:
            return
        self._stopped = True
        self._link.fail_all("The server is shutting down.")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._changed.set()
        if self._supervisor is not None:
            await self._supervisor.stop()
        self._link.client.close()
        if self._workers is not None:
            self._workers.close()
        if self._given_run_dir is None:
            shutil.rmtree(self._run_dir, ignore_errors=True)

    # ---- what it is and how it does

    @property
    def info(self) -> EngineInfo | None:
        """What the engine says of itself; None until the first one is loaded."""
        return self._link.info

    @property
    def card(self) -> ModelCard:
        name = Path(self._config.model_path).name or "model"
        info, text = self._link.info, self._workers.text if self._workers is not None else None
        return ModelCard(
            ids=self._options.served_names or (name,),
            root=name,
            created=self._created,
            max_model_len=info.max_model_len if info is not None else self._expected_model_len(),
            supports_thinking=text is not None and text.splits_thinking and text.chat.supports_thinking,
            supports_tools=text is not None and text.tool_format is not None,
        )

    def _expected_model_len(self) -> int:
        """Until the engine says it: what the settings and config.json say."""
        with contextlib.suppress(EngineError):
            supported = load_model_config(self._config.model_path).max_position
            return min(self._config.max_model_len or supported, supported)
        return self._config.max_model_len or MAX_TOKENS

    def health(self) -> Health:
        if self._stopped:
            return Health("dead", detail="stopped")
        if reason := self._why_dead():
            return Health("dead", detail=reason)
        if self._link.connected and self._facts is not None:
            if self._supervisor is not None and (stalled_s := self._supervisor.stalled_s):
                return Health("restarting", detail=f"the engine has given no sign of life for {stalled_s:.0f} s")
            return Health("ready")
        progress = self._link.progress
        lost = self._link.info is not None and not self._link.connected
        state: HealthState = "restarting" if lost else "starting"
        return Health(state, progress.phase, progress.fraction, progress.detail)

    def stats(self) -> EngineStats:
        return self._link.stats

    def counters(self) -> BackendCounters:
        restarts = self._supervisor.restarts if self._supervisor is not None else self._shared.restarts
        return BackendCounters(dict(self._link.finished), self._admission.num_refused, restarts)

    @property
    def engine_pid(self) -> int | None:
        return self._supervisor.engine_pid if self._supervisor is not None else None

    # ---- requests

    def check_room(self, num_choices: int) -> None:
        self._admission.look(num_choices, self._link.info)

    async def generate(self, request: GenerationRequest) -> EngineGeneration:
        """Everything that can be refused is refused here; see adapters.backend."""
        workers, facts = await self._ready()
        await self._turn.share()
        check_params(request.params, facts, self._options.limits)
        num_choices = request.params.n
        self._admission.arrive(num_choices, self._link.info)
        try:
            encoded = await workers.encode(request, facts)
            generation = self._make_generation(request, encoded, workers.text, facts)
            await self._ready()
        except BaseException:
            self._admission.leave(num_choices)
            raise
        self._link.submit(generation.choices)
        self._set_timers(request, generation)
        return generation

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        return await self._text().render(prompt)

    async def detokenize(self, token_ids: tuple[int, ...]) -> str:
        return await self._text().detokenize(token_ids)

    def reset_prefix_cache(self) -> None:
        self._link.client.reset_prefix_cache()

    # ---- inside

    def _make_generation(
        self, request: GenerationRequest, encoded: EncodedPrompt, text: ModelText, facts: ModelFacts
    ) -> EngineGeneration:
        params = request.params
        seed = params.seed if params.seed not in (None, -1) else self._seeds.getrandbits(62)
        num_prompt, param = len(encoded.token_ids), param_of(request.prompt)
        sampling = sampling_params(params, facts, num_prompt, seed, encoded.bad_words, param)
        number = next(self._numbers)
        arrival_s = time.monotonic()
        requests = [
            EngineRequest(
                request_id=f"{self._id_prefix}-{number:x}.{i}",
                prompt_token_ids=encoded.token_ids,
                sampling=msgspec.structs.replace(
                    sampling,
                    seed=seed_of_choice(seed, i),
                    prompt_logprobs=sampling.prompt_logprobs if i == 0 else None,
                ),
                arrival_s=arrival_s,
                priority=request.priority,
                cache_salt=request.cache_salt,
                grammar=encoded.grammar,
            )
            for i in range(params.n)
        ]
        return EngineGeneration(
            request.request_id,
            output_plan(request, encoded, text, sampling),
            requests,
            encoded.text or text.tokenizer.decode(encoded.token_ids),
            stream=request.stream,
            limits=self._options.limits,
            release=self._link.release,
            prompt_param=param,
        )

    def _set_timers(self, request: GenerationRequest, generation: EngineGeneration) -> None:
        limits = self._options.limits
        deadline_s = request.deadline_s if request.deadline_s is not None else limits.max_deadline_s
        if deadline_s > 0:
            message = f"The request was not finished within {deadline_s:g} s and was cancelled."
            generation.fail_after(deadline_s, lambda: DeadlineExceededError(message))
        if limits.max_queue_wait_s > 0:
            choices = generation.choices
            generation.fail_after(
                limits.max_queue_wait_s, lambda: self._admission.queue_error(any(c.started for c in choices))
            )

    async def _ready(self) -> tuple[TextWorkers, ModelFacts]:
        """Waits for an engine that restarts; does not wait for one that has never been ready."""
        give_up_s: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            if self._why_dead():
                raise EngineDeadError(NOT_RUNNING)
            if self._workers is not None and self._facts is not None and self._link.connected:
                return self._workers, self._facts
            if self._link.info is None or self._facts is None:
                progress = self._link.progress
                message = f"The model is still loading ({progress.phase}, {progress.fraction:.0%})."
                raise EngineUnavailableError(message, 2.0)
            give_up_s = give_up_s or loop.time() + self._options.limits.max_restart_wait_s
            try:
                async with asyncio.timeout_at(give_up_s):
                    await self._changed.wait()
            except TimeoutError:
                raise EngineUnavailableError("The engine is restarting. Please try again later.", 5.0) from None

    def _text(self) -> TextWorkers:
        if self._workers is None:
            raise EngineUnavailableError("The tokenizer is still loading.", 1.0)
        return self._workers

    def _why_dead(self) -> str:
        if self._stopped:
            return "the server is shutting down"
        if self._text_error is not None:
            return str(self._text_error)
        if self._supervisor is not None:
            return self._supervisor.reason if self._supervisor.state == "dead" else ""
        return self._shared.reason if self._shared.state == "dead" else ""

    def _on_change(self) -> None:
        """Something about the engine is different: facts are completed, those who wait look again."""
        link, supervisor = self._link, self._supervisor
        if link.connected and link.info is not None and supervisor is not None:
            supervisor.note_ready(link.epoch, link.info.device)
        self._complete_facts()
        if self._why_dead():
            link.fail_all(NOT_RUNNING)
        self._changed.set()
        self._changed.clear()

    def _on_culprit(self) -> None:
        if self._supervisor is not None:
            self._supervisor.note_culprit()

    def _complete_facts(self) -> None:
        info = self._link.info
        if info is not None and self._workers is not None:
            text = self._workers.text
            capacity = max(info.num_blocks - 1, 0) * info.block_size or MAX_TOKENS
            self._facts = ModelFacts(info.vocab_size, info.max_model_len, text.eos_token_ids, text.defaults, capacity)

    async def _load_text(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            text = await loop.run_in_executor(None, ModelText, Path(self._config.model_path), self._options)
        except EngineError as error:
            self._text_error = error
        except Exception as error:
            logger.exception("the checkpoint's text files cannot be used")
            self._text_error = EngineDeadError(f"the checkpoint's text files cannot be used: {error}")
        else:
            self._workers = TextWorkers(text)
        self._on_change()

    async def _watch_connection(self) -> None:
        """For a front whose engine is supervised by another process: its state comes in a file."""
        heard = -1
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            state = await asyncio.get_running_loop().run_in_executor(None, read_state, self._run_dir)
            if state is not None and state != self._shared:
                self._shared = state
                self._on_change()
            if self._link.client.messages_heard == heard:
                self._link.client.greet()
            heard = self._link.client.messages_heard
