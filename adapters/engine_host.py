"""The engine's owner where several HTTP processes share one engine. It lives in their parent and serves nobody."""

from __future__ import annotations

import logging
import shutil
import tempfile

from engine.config import EngineConfig
from engine.process.client import EngineClient
from engine.process.messages import Heartbeat, Progress, StepOutputs, Welcome
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
        self._run_dir = ""

    @property
    def run_dir(self) -> str:
        """After `start`."""
        return self._run_dir

    @property
    def engine_pid(self) -> int | None:
        return self._supervisor.engine_pid

    async def start(self) -> None:
        """Begins to start the engine and returns at once; from then on it is kept alive."""
        self._run_dir = tempfile.mkdtemp(prefix="oai-server-")
        client = EngineClient(self._run_dir, self)
        self._client = client
        self._supervisor = Supervisor(
            self._config,
            self._run_dir,
            client,
            self._publish,
            limits=self._supervisor_limits,
            runner=self._runner,
            log_level=logging.getLevelName(logger.getEffectiveLevel()),
        )
        self._publish("starting")
        client.open()
        self._supervisor.start()

    async def stop(self) -> None:
        await self._supervisor.stop()
        self._client.close()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def _publish(self, state: SupervisorState) -> None:
        supervisor = self._supervisor
        try:
            write_state(self._run_dir, SharedState(state, supervisor.reason, supervisor.restarts))
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
        self._client.outputs_heard += heartbeat.stats.num_running > 0

    def on_lost(self) -> None:
        pass
