"""The whole server over `fault_runner`: `python -m tests.support.fault_server --model DIR --port 0 ...`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from adapters.engine_backend import EngineBackend
from adapters.engine_host import EngineHost
from engine.process.supervisor import SupervisorLimits
from oai_server.lifecycle import Worker, serve
from oai_server.settings import Settings
from oai_server.settings_sources import load_settings
from oai_server.start import backend_options, queue_counts, resolve
from tests.support.fault_backend import RUNNER, limits_of
from tests.support.fault_runner import Script


def silence_limits(settings: Settings) -> SupervisorLimits:
    script = (Path(settings.engine_config().model_path) / "script.json").read_bytes()
    return limits_of(msgspec.json.decode(script, type=Script))


def make_backend(settings: Settings, worker: Worker) -> EngineBackend:
    return EngineBackend(
        settings.engine_config(),
        backend_options(settings),
        run_dir=worker.run_dir,
        counts=queue_counts(worker),
        supervisor_limits=silence_limits(settings),
        runner=RUNNER,
    )


def make_host(settings: Settings) -> EngineHost:
    return EngineHost(settings.engine_config(), supervisor_limits=silence_limits(settings), runner=RUNNER)


def say(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    chosen = resolve(
        load_settings({name.removeprefix("--").replace("-", "_"): value for name, value in flags.items()})
    )
    sys.exit(serve(chosen, make_backend, make_host=make_host, on_listening=say))
