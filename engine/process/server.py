"""The engine's process: `python -m engine.process.server`, started by `engine.process.supervisor`.

Settings come on standard input, never on the command line, where every user of the host could read them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import logging
import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from engine.errors import ConfigurationError, EngineError, ModelLoadError
from engine.process.door import Door, answering_while_loading
from engine.process.lifeline import claim_output, follow_parent, heed_signals, parent_is_gone, read_launch
from engine.process.loop import Core, EngineLoop
from engine.process.messages import (
    TRIAL_PREFIX,
    TURN_FILE,
    EngineInfo,
    LastWords,
    Launch,
    socket_path,
    started_path,
)
from engine.process.recorder import RecordedRunner, StartRecorder
from engine.process.shared_state import state_path
from engine.runner.batch import ModelRunner, Report

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 when asked to end, 1 after an error."""
    parser = argparse.ArgumentParser(prog="engine.process.server")
    parser.add_argument("--runner", required=True, help="module:function that builds it")
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s engine: %(message)s")
    say_last_words = claim_output()
    try:
        launch = read_launch()
    except EOFError:  # the parent has gone before it said what to do
        return 1
    try:
        serve(launch, options.runner)
    except (ConfigurationError, ModelLoadError) as error:
        say_last_words(LastWords(str(error), permanent=True))
    except EngineError as error:
        say_last_words(LastWords(str(error), permanent=False))
    except Exception as error:
        logger.exception("the engine failed")
        say_last_words(LastWords(f"{type(error).__name__}: {error}".splitlines()[0], permanent=False))
    else:
        return 0
    return 1


def serve(launch: Launch, runner_name: str) -> None:
    """Load, then step until the parent is gone or wants an end."""
    stop, stop_when_idle = threading.Event(), threading.Event()
    heed_signals(stop_when_idle, stop)
    door = Door(launch.run_dir)
    try:
        follow_parent(launch.parent_pid, stop, lambda: remove_traces(launch))
        with answering_while_loading(door, launch.epoch) as report:
            recorder = StartRecorder(launch.run_dir, launch.epoch)
            core, runner, info = load(launch, runner_name, recorder, report)
        # What the model has left on the heap will not go away: spare the collector from walking it in every pass.
        gc.collect()
        gc.freeze()
        logger.info("engine %d ready after %.1f s", launch.epoch, info.load_s)
        try:
            EngineLoop(door, core, recorder, info, launch.epoch).run(stop.is_set, stop_when_idle.is_set)
        finally:
            runner.close()
    finally:
        door.close()
        # The parent's death comes as a signal, too, and an idle engine may have heeded that before its pipe's end.
        if stop.is_set() or parent_is_gone(launch.parent_pid):
            remove_traces(launch)


def load(
    launch: Launch, runner_name: str, recorder: StartRecorder, report: Report
) -> tuple[Core, ModelRunner, EngineInfo]:
    """Builds runner and core. `runner_name` is `module:function`; tests name a runner without a model."""
    began_s = time.monotonic()
    report("process", 0.5, "importing")
    core_module = importlib.import_module("engine.core")
    module, _, function = runner_name.partition(":")
    build = getattr(importlib.import_module(module), function)
    real_runner, info = build(launch.config, report)
    runner = RecordedRunner(real_runner, recorder)
    core = core_module.EngineCore(launch.config, runner)
    report("warm-up", 0.0, "")
    runner.warm_up()
    load_s = time.monotonic() - began_s
    return core, runner, msgspec.structs.replace(info, pid=os.getpid(), load_s=load_s, policy=launch.config.policy)


def remove_traces(launch: Launch) -> None:
    """The parent may have been killed, so that nobody else clears up. Foreign files in the folder keep it alive."""
    names = [
        socket_path(launch.run_dir),
        str(state_path(launch.run_dir)),
        *(started_path(launch.run_dir, e) for e in range(launch.epoch + 1)),
        f"{launch.run_dir}/{TURN_FILE}",
        *map(str, Path(launch.run_dir).glob(f"{TRIAL_PREFIX}*")),
    ]
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(name)
    with contextlib.suppress(OSError):
        os.rmdir(launch.run_dir)


if __name__ == "__main__":
    sys.exit(main())
