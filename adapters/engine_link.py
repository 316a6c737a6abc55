"""The live requests of one front, carried over the lives of its engines."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from adapters.admission import QueueCounts
from adapters.mailbox import Choice
from adapters.recovery import Recovery
from adapters.trial_turns import TrialTurns
from engine.errors import EngineDeadError, EngineError, RequestError, RequestFailedError
from engine.process.client import EngineClient
from engine.process.messages import EngineInfo, Heartbeat, Progress, StepOutputs, Welcome, started_path
from engine.request import EngineStats, FinishReason, RequestOutput

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.02
"""While other fronts try their suspects."""


class EngineLink:
    """Owns the connection and every choice that the engine works on; implements EngineListener.

    When the engine dies the choices stay; the next one gets them with the tokens they have.
    """

    def __init__(
        self,
        run_dir: str,
        on_change: Callable[[], None],
        on_culprit: Callable[[], None] = lambda: None,
        *,
        counts: QueueCounts,
        turns: TrialTurns | None = None,
    ) -> None:
        """`on_change` is called after a welcome, after a loss and when loading goes on.

        `on_culprit`: when a request is refused because it has killed engines. `counts`: choices come in counted by
        Admission, and are counted out at their end. `turns`: where other fronts share the engine.
        """
        self.client = EngineClient(run_dir, self)
        self.info: EngineInfo | None = None
        self.progress = Progress(0, "process", 0.0)
        self.stats = EngineStats()
        self.finished: Counter[str] = Counter()
        """Ended choices by reason; abort: the client went away."""
        self._counts = counts
        self._run_dir = run_dir
        self._on_change = on_change
        self._on_culprit = on_culprit
        self._turns = turns
        self._admits = False
        """The present engine may have requests of ours."""
        self._trying = False
        """It is this front's turn to try its suspects; its other requests wait."""
        self._epoch = 0
        self._connected = False
        self._choices: dict[str, Choice] = {}
        self._recovery = Recovery()

    @property
    def connected(self) -> bool:
        """An engine has said welcome and has not been lost since."""
        return self._connected

    @property
    def epoch(self) -> int:
        return self._epoch

    def __len__(self) -> int:
        """Live choices."""
        return len(self._choices)

    def submit(self, choices: Sequence[Choice]) -> None:
        """New requests. While no engine is there they wait for the next one."""
        for choice in choices:
            self._choices[choice.request_id] = choice
            self._counts.add(0, len(choice.request.prompt_token_ids))
        now = self._recovery.add([choice.request_id for choice in choices])
        if self._connected and self._admits:
            self._send(now)

    def release(self, choices: Sequence[Choice], reason: FinishReason) -> None:
        """Choices that this side has ended: the engine frees them within one step."""
        live = [choice for choice in choices if choice.request_id in self._choices]
        if live and self._connected:
            lengths = [choice.num_kept for choice in live] if reason == "stop" else ()
            self.client.cancel([choice.request_id for choice in live], lengths)
        for choice in live:
            self._end(choice, reason)

    def fail_all(self, reason: str) -> None:
        """There is no engine any more and there will be none."""
        if self._turns is not None:
            self._turns.done()
        for generation in {choice.generation: None for choice in self._choices.values()}:
            generation.fail(EngineDeadError(reason))

    # ---- EngineListener

    def on_outputs(self, outputs: StepOutputs) -> None:
        if outputs.epoch != self._epoch:
            return
        choices = self._choices
        for request_id in outputs.started:
            if (choice := choices.get(request_id)) is not None:
                self._start(choice)
        for output in outputs.outputs:
            choice = choices.get(output.request_id)
            if choice is None:
                continue
            if output.token_ids and (not choice.progressed or self._recovery.waits_for_tokens):
                choice.progressed = True
                self._start(choice)
                self._send(self._recovery.progressed(output.request_id))
            reason = output.finish_reason
            if reason is None or reason in ("stop", "length"):
                choice.generation.push(choice, output)
                if reason is not None:
                    self._end(choice, reason)
            else:
                choice.generation.fail(_error_of(output, choice.generation.prompt_param))
        if self._trying:
            self._end_turn()

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        if heartbeat.epoch == self._epoch:
            self.stats = heartbeat.stats

    def on_progress(self, progress: Progress) -> None:
        self.progress = progress
        self._on_change()

    def on_welcome(self, welcome: Welcome) -> None:
        if welcome.known and welcome.epoch == self._epoch:
            return
        self._epoch, self.info, self._connected = welcome.epoch, welcome.info, True
        for choice in self._choices.values():
            choice.progressed = False
        self._on_change()
        if len(self._recovery):
            logger.info("engine %d: %d requests go on", welcome.epoch, len(self._recovery))
        self._admits = self._trying = False
        self._begin(welcome.epoch)

    def on_lost(self) -> None:
        """The engine has died. Those that are refused are told; the others wait for the next one."""
        self._connected = False
        ran = self._started_in(self._epoch)
        own = {request_id.partition("-")[0] for request_id in self._choices}
        strangers = any(request_id and request_id.partition("-")[0] not in own for request_id in ran)
        for request_id in self._recovery.engine_died(ran, strangers):
            choice = self._choices.get(request_id)
            if choice is None:
                continue
            self._on_culprit()
            name = choice.generation.request_id
            logger.error("request %s was running when the engine died again; it is refused", name)
            choice.generation.fail(
                RequestFailedError(
                    f"Request {name} was running when the engine died twice; it will not be tried again."
                )
            )
        if self._turns is not None:
            self._turns.done()
            if self._recovery.has_trials:
                self._turns.announce()
        self.stats = msgspec.structs.replace(
            self.stats, num_running=0, num_waiting=len(self._choices), kv_blocks_used=0, tokens_per_s=0.0
        )
        self._on_change()

    # ---- inside

    def _begin(self, epoch: int) -> None:
        """Requests go to the new engine: suspects first, in this front's turn, while other fronts hold theirs."""
        if not self._connected or epoch != self._epoch:
            return
        recovery, turns = self._recovery, self._turns
        if turns is None:
            self._admits = True
            self._send(recovery.engine_ready())
        elif not recovery.has_trials:
            turns.done()  # suspects that left before their trial
            self._admits = True
            recovery.engine_ready(gate_closed=True)
            self._open_gate(epoch)
        elif turns.take():
            self._admits = self._trying = True
            self._send(recovery.engine_ready(gate_closed=True))
        else:
            asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._begin, epoch)

    def _open_gate(self, epoch: int) -> None:
        if not self._connected or epoch != self._epoch or self._turns is None:
            return
        if self._turns.others_wait():
            asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._open_gate, epoch)
        else:
            self._send(self._recovery.open_gate())

    def _end_turn(self) -> None:
        if self._turns is not None and not self._recovery.has_trials:
            self._trying = False
            self._turns.done()
            self._open_gate(self._epoch)

    def _started_in(self, epoch: int) -> set[str]:
        """What the dead engine noted of the requests it had begun; it may have noted more than it told us."""
        ran = {choice.request_id for choice in self._choices.values() if choice.progressed}
        with contextlib.suppress(OSError):
            ran.update(Path(started_path(self._run_dir, epoch)).read_text(encoding="utf-8").split("\n"))
        return ran

    def _send(self, request_ids: Sequence[str]) -> None:
        """In pieces, so that an engine is not blind to cancellations while it takes a thousand long prompts."""
        ids = iter(request_ids)
        while piece := list(itertools.islice(ids, 64)):
            self.client.submit([self._choices[request_id].resumed() for request_id in piece])

    def _start(self, choice: Choice) -> None:
        if not choice.started:
            choice.started = True
            self._counts.add(0, -len(choice.request.prompt_token_ids))

    def _end(self, choice: Choice, reason: FinishReason) -> None:
        self._start(choice)
        del self._choices[choice.request_id]
        self._counts.add(-1)
        self.finished[reason] += 1
        released = self._recovery.remove(choice.request_id)
        if released and self._connected:
            self._send(released)
        if self._trying:
            self._end_turn()


def _error_of(output: RequestOutput, prompt_param: str) -> EngineError:
    """What the client hears of a request that the engine ended."""
    message, fault = output.error or "The engine ended this request.", output.fault
    if fault is None:
        return RequestFailedError(message)
    return RequestError(message, prompt_param if fault.param == "prompt" else fault.param, fault.code)
