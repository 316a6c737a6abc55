"""Whole steps as CUDA graphs, one for each padded shape, captured when first needed."""

from __future__ import annotations

import bisect
import functools
import gc
import logging
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch

logger = logging.getLogger(__name__)


def bucket_sizes(max_rows: int) -> list[int]:
    """1, 2, 4, 8, 16, then every 8 up to 64, every 16 up to 256, every 32 beyond; the last is max_rows."""
    sizes = [1, 2, 4, 8, *range(16, 64, 8), *range(64, 256, 16), *range(256, max_rows + 1, 32)]
    return [*(size for size in sizes if size < max_rows), max_rows]


def smallest(sizes: list[int], wanted: int) -> int:
    """The smallest of the ascending sizes that holds what is wanted; the last must."""
    return sizes[bisect.bisect_left(sizes, wanted)]


Key = TypeVar("Key", bound=Hashable)


class StepGraphs(Generic[Key]):
    """Captures `step(key)` and replays it. All graphs share one memory pool: one runs at a time."""

    def __init__(self, step: Callable[[Key], torch.Tensor], rehearse: Callable[[Key], torch.Tensor]) -> None:
        """`rehearse` launches the same kernels as `step` but may be run any number of times."""
        self.step = step
        self._rehearse = rehearse
        self._graphs: dict[Key, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

    def ready(self, key: Key) -> bool:
        return key in self._graphs

    def run(self, key: Key) -> torch.Tensor:
        """Replay what is ready; returns what `step` returned: always the same memory."""
        graph, output = self._graphs[key]
        graph.replay()
        return output

    def capture(self, key: Key) -> None:
        """Capture, anew where there is a graph already."""
        started = time.monotonic()
        self._graphs.pop(key, None)
        torch.cuda.synchronize()
        stream = _capture_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._rehearse(key)  # compiles kernels and makes libraries allocate what they need
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # freeing a tensor of another stream in mid-capture would end it
        try:
            with torch.cuda.graph(graph, pool=_pool(), stream=stream, capture_error_mode="thread_local"):
                output = self.step(key)
        finally:
            if collecting:
                gc.enable()
        self._graphs[key] = (graph, output)
        logger.debug("captured a step of %s in %.2f s", key, time.monotonic() - started)


@functools.cache
def _capture_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


@functools.cache
def _pool() -> Any:
    """Of all graphs of the process: outputs live until the next replay of any graph."""
    return torch.cuda.graph_pool_handle()
