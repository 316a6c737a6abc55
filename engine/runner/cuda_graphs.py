"""Whole decode steps as CUDA graphs, one for each number of rows, captured when first needed."""

from __future__ import annotations

import bisect
import gc
import logging
import time
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


def bucket_sizes(max_rows: int) -> list[int]:
    """1, 2, 4, 8, 16, then every 8 up to 64, every 16 up to 256, every 32 beyond; the last is max_rows."""
    sizes = [1, 2, 4, 8, *range(16, 64, 8), *range(64, 256, 16), *range(256, max_rows + 1, 32)]
    return [*(size for size in sizes if size < max_rows), max_rows]


class DecodeGraphs:
    """Captures `step(rows)` for a bucket and replays it. All graphs share one memory pool: one runs at a time."""

    def __init__(
        self, step: Callable[[int], torch.Tensor], rehearse: Callable[[int], torch.Tensor], max_rows: int
    ) -> None:
        """`rehearse` launches the same kernels as `step` but may be run any number of times."""
        self._step = step
        self._rehearse = rehearse
        self.sizes = bucket_sizes(max_rows)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: Any = None

    def bucket(self, rows: int) -> int:
        """The smallest size that holds `rows`."""
        return self.sizes[bisect.bisect_left(self.sizes, rows)]

    def run(self, bucket: int) -> torch.Tensor:
        """Replay, capturing first where needed; returns what `step` returned: always the same memory."""
        if bucket not in self._graphs:
            self.capture(bucket)
        graph, output = self._graphs[bucket]
        graph.replay()
        return output

    def capture(self, bucket: int) -> None:
        started = time.monotonic()
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._rehearse(bucket)  # compiles kernels and makes libraries allocate what they need
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # freeing a tensor of another stream in mid-capture would end it
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                output = self._step(bucket)
        finally:
            if collecting:
                gc.enable()
        self._pool = graph.pool()
        self._graphs[bucket] = (graph, output)
        logger.debug("captured a decode step of %d rows in %.2f s", bucket, time.monotonic() - started)
