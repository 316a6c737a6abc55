"""One of the processes that `engine.runner.compile_ahead` starts: `python -m engine.runner.compile_worker FD FD`.

It walks through the engine's steps with tensors that have shapes but no memory, under a driver that launches nothing:
what the walk would launch is compiled into the cache, and no GPU is touched.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from engine.models.config import ModelConfig, load_model_config
from engine.models.rope import rope_tables
from engine.models.weights import load_weights
from engine.process.lifeline import end_with_parent
from engine.runner.compile_ahead import CompileJob
from engine.runner.cuda_build import plan_steps
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_products import Products
from engine.runner.cuda_runner import CudaRunner
from engine.runner.factory import choose_max_model_len
from engine.sampling.deferred_compiler import DeferredCompiler

META = torch.device("meta")
LESS_URGENT = 5
"""Added to the process's niceness: the engine's own start comes first."""


class Claims:
    """Who compiles which kernel: each worker locks bytes of one anonymous file, whose text is the job.

    All workers meet the same kernels in the same order, so a kernel's number is a byte's offset. The system frees the
    locks of a worker that ends; what it has compiled is in the cache by then.
    """

    def __init__(self, file_descriptor: int) -> None:
        self._file = file_descriptor

    def job(self) -> CompileJob:
        text = os.pread(self._file, os.fstat(self._file).st_size, 0)
        return msgspec.json.decode(text, type=CompileJob)

    def take(self, number: int) -> bool:
        """Whether nobody else has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True


class PaperDriver:
    """Triton's view of a GPU that is not there: kernels can be compiled and "loaded" for it, launches do nothing."""

    class utils:  # noqa: N801 -- the name that Triton asks for
        @staticmethod
        def load_binary(*_: object) -> tuple[None, None, int, int, int]:
            """(module, function, registers, spills, most threads a block)"""
            return None, None, 0, 0, 1024

        @staticmethod
        def get_device_properties(_: int) -> dict[str, int]:
            return {"max_shared_mem": sys.maxsize}

    def __init__(self, capability: tuple[int, int]) -> None:
        self._target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def launcher_cls(self, *_: object) -> Callable[..., None]:
        return lambda *_, **__: None


class PaperProducts(Products):
    """Leaves out what needs no compiling: the shape is enough."""

    def _library(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x.new_empty((x.shape[0], weight.shape[0]))


class KernelsMet:
    """Numbers the kernels in the order in which they are met; Triton's hook, which says which to leave out."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._mine: dict[tuple[str, str], bool] = {}

    def is_others(self, *, key: object, fn: Any, **_: object) -> bool:
        """Asked before a kernel is compiled. True: it is not, and the launch is skipped."""
        name = (f"{fn.module}.{fn.name}", str(key))
        if name not in self._mine:
            self._mine[name] = self._claims.take(len(self._mine))
        return not self._mine[name]


def main(arguments: list[str]) -> int:
    """Of the job, and of the pipe to close when what a start needs is compiled. Returns the exit status."""
    os.nice(LESS_URGENT)
    file, needed = map(int, arguments)
    claims = Claims(file)
    job = claims.job()
    if not end_with_parent(job.parent_pid):
        return 1
    kernels = KernelsMet(claims)
    driver.set_active(PaperDriver(job.capability))
    knobs.runtime.jit_cache_hook = kernels.is_others
    runner = paper_runner(job)
    for rehearse in (*runner.rehearsals(), *runner.mixed_rehearsals()):
        rehearse()
    os.write(needed, b".")
    os.close(needed)
    for rehearse in runner.later_rehearsals():
        rehearse()
    return 0


def paper_runner(job: CompileJob) -> CudaRunner:
    """The engine's runner over tensors without memory. Which kernels there are does not depend on its KV blocks."""
    model = load_model_config(job.config.model_path)
    config = msgspec.structs.replace(job.config, max_model_len=choose_max_model_len(job.config, model))
    plan = plan_steps(config, model, torch.device("cuda"), job.capability)
    model = _one_of_each_layer(model)
    weights = load_weights(config.model_path, model, META, plan.dtype, "dummy")
    cache = plan.layout.allocate(2, META)
    tables = rope_tables(model, plan.limits.max_model_len, META)
    products = PaperProducts(plan.products.table, plan.products.pdl)
    forward = CudaForward(model, weights, plan.attention, cache, tables, products)
    return CudaRunner(forward, plan.limits, DeferredCompiler(config.model_path))


def _one_of_each_layer(model: ModelConfig) -> ModelConfig:
    """All layers launch the same kernels, but for their windows."""
    return model if any(model.layer_windows) else msgspec.structs.replace(model, num_layers=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
