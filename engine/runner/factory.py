"""From settings to a runner that is ready to step, on whichever device they name."""

from __future__ import annotations

import importlib
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from engine.config import EngineConfig
from engine.errors import ConfigurationError
from engine.models.config import ModelConfig, load_model_config
from engine.process.messages import EngineInfo
from engine.runner import compile_ahead
from engine.runner.batch import ModelRunner, Report

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Built = tuple[ModelRunner, EngineInfo]


def build_runner(config: EngineConfig, report: Report) -> Built:
    """Load the model of `config` and build its runner. The caller fills the info's pid, policy and load_s.

    Raises ModelLoadError for the checkpoint's faults and ConfigurationError for the settings'.
    """
    if not Path(config.model_path).is_dir():
        raise ConfigurationError(f"model_path {config.model_path} is not a folder")
    model = load_model_config(config.model_path)
    config = msgspec.structs.replace(config, max_model_len=choose_max_model_len(config, model))
    with ExitStack() as unneeded:
        ahead = compile_ahead.begin(config)  # before torch is imported, which takes seconds
        if ahead is not None:
            unneeded.callback(ahead.stop)
        device = choose_device(config.device)
        config = msgspec.structs.replace(config, device=str(device))
        if device.type == "cuda":
            build = importlib.import_module("engine.runner.cuda_build").build
            built = cast(Built, build(config, model, report, ahead))
            unneeded.pop_all()  # the runner's own from now on
            return built
    return cast(Built, importlib.import_module("engine.runner.cpu_build").build(config, model, report))


def choose_device(name: str) -> torch.device:
    """ "auto" takes CUDA when there is one. Raises ConfigurationError for a device that is not here."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"device {name!r:.80} is unknown; known: auto, cpu, cuda, cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"device {name!r:.80} is not supported; supported: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"device {name} is not here; {torch.cuda.device_count()} CUDA devices were found")
    return device


def choose_max_model_len(config: EngineConfig, model: ModelConfig) -> int | None:
    """The asked length, checked against the checkpoint's; None where none was asked.

    Raises ConfigurationError for lengths whose positions the model was not made for.
    """
    if config.long_context_extrapolation and not model.extrapolated_max_position:
        raise ConfigurationError("long_context_extrapolation needs a Qwen 1 checkpoint with dynamic NTK or logn")
    longest = model.longest_sequence(config.long_context_extrapolation)
    asked = config.max_model_len
    if asked is not None and not 1 <= asked <= longest:
        hint = ""
        if not config.long_context_extrapolation and model.extrapolated_max_position >= asked:
            hint = "; long_context_extrapolation raises the limit"
        raise ConfigurationError(f"max_model_len must be in [1, {longest}] for this checkpoint, found {asked}{hint}")
    return asked
