"""The engine's owner where several HTTP processes share one engine. It lives in their parent and serves nobody."""

from __future__ import annotations

import logging
import shutil

from engine.config import EngineConfig
from engine.process.client import EngineClient
from engine.process.messages import Heartbeat, Progress, StepOutputs, Welcome
from engine.process.run_dir import make_run_dir
from engine.process.shared_state import SharedState, write_state
from engine.process.supervisor import DEFAULT_RUNNER, Supervisor, SupervisorLimits, SupervisorState

logger = logging.getLogger(__name__)


class EngineHost:
    """Keeps one engine alive under a run directory of its own and tells the fronts there how it does."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        supervisor_limits: SupervisorLimits | None = None,
        runner: str = DEFAULT_RUNNER,
    ) -> None:
        self._config = config
        self._supervisor_limits = supervisor_limits
        self._runner = runner
        self.run_dir = ""
        """Known after `start`."""

    @property
    def engine_pid(self) -> int | None:
        return self._supervisor.engine_pid

    async def start(self) -> None:
        """Begins to start the engine and returns at once; from then on it is kept alive."""
        self.run_dir = make_run_dir()
        self._client = EngineClient(self.run_dir, self)
        self._supervisor = Supervisor(
            self._config,
            self.run_dir,
            self._client,
            self._publish,
            limits=self._supervisor_limits,
            runner=self._runner,
            log_level=logging.getLevelName(logger.getEffectiveLevel()),
        )
        self._publish("starting")
        self._client.open()
        self._supervisor.start()

    async def stop(self) -> None:
        await self._supervisor.stop()
        self._client.close()
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def _publish(self, state: SupervisorState) -> None:
        supervisor = self._supervisor
        try:
            write_state(self.run_dir, SharedState(state, supervisor.reason, supervisor.restarts))
        except OSError as error:
            logger.error("cannot tell the HTTP processes about the engine: %s", error)

    # ---- EngineListener: only signs of life matter

    def on_welcome(self, welcome: Welcome) -> None:
        self._supervisor.note_ready(welcome.epoch, welcome.info.device)

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_outputs(self, outputs: StepOutputs) -> None:
        pass

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        # Outputs go to the fronts alone: requests that run tell the supervisor that this engine is of use.
        self._client.outputs_heard += heartbeat.stats.num_running > 0

    def on_lost(self) -> None:
        pass
