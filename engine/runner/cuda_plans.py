"""Which plan each number of rows is computed by: measured once on the machine, remembered in a file."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import torch

from engine.models.config import ModelConfig
from engine.runner.cuda_products import PLAIN, Plan

logger = logging.getLogger(__name__)

GROUPS = (1, 8, 16, 32, 64)
"""Numbers of rows that are measured; each stands for those down to the one before. More rows go to cuBLAS."""
DEFAULT = Plan(own=True)


class PlanTable:
    """Largest number of rows -> plan."""

    def __init__(self, plans: dict[int, Plan] | None = None) -> None:
        self.plans = plans if plans is not None else dict.fromkeys(GROUPS, DEFAULT)

    def of(self, rows: int) -> Plan:
        return next((plan for most, plan in sorted(self.plans.items()) if rows <= most), PLAIN)


def plan_file(config: ModelConfig, device: torch.device) -> Path:
    """Where this model's plans for this GPU are kept: $XDG_CACHE_HOME or ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    gpu = torch.cuda.get_device_name(device).replace(" ", "-")
    shape = (config.num_layers, config.hidden_size, config.intermediate_size, config.qkv_width, config.vocab_size)
    return cache / "qwen-oai-server" / f"plans-{gpu}-{'-'.join(map(str, shape))}.json"


def load_plans(config: ModelConfig, device: torch.device) -> PlanTable:
    """The remembered plans, or the default ones."""
    path = plan_file(config, device)
    try:
        plans = msgspec.json.decode(path.read_bytes(), type=dict[int, Plan])
    except (OSError, msgspec.DecodeError) as error:
        logger.info("no measured plans (%s): using the default ones", error)
        return PlanTable()
    logger.info("plans measured on this GPU: %s", path)
    return PlanTable(plans)


def save_plans(table: PlanTable, config: ModelConfig, device: torch.device) -> Path:
    path = plan_file(config, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(table.plans))
    return path
