"""The other end of `transformers_worker`'s pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class TransformersPeer:
    """transformers' `generate` in a process of its own, ready once this is made. Raises RuntimeError when it ends."""

    def __init__(self, folder: Path, threads: int, dtype: str, device: str = "cpu") -> None:
        command = [sys.executable, "-m", "benchmarks.transformers_worker", str(folder), str(threads), dtype, device]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self._read()

    def run(self, batch: int, prompt: int, output: int, seed: int) -> dict[str, Any]:
        """One batch of prompts and outputs of these lengths; see `transformers_worker.run` for what comes back."""
        if self.process.stdin is None:
            raise RuntimeError("the worker has no input")
        asked = {"batch": batch, "prompt": prompt, "output": output, "seed": seed}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self._read())
        return found

    def _read(self) -> str:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError("the transformers worker ended")
        return line

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
