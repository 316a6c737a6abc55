"""Every kernel a few times at small sizes, for compute-sanitizer: one process, each tensor its own allocation.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --target-processes application-only \\
        --error-exitcode 9 python -m tests.gpu.sanitize

and the same with `--tool racecheck`. It runs the kernels' own tests with the first and the last of their parameters.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

MODULES = ("elementwise", "paged_attention", "shared_prefix", "filters", "processors", "sampling", "products")


def combinations(test: Callable[..., None]) -> list[dict[str, Any]]:
    """The first and the last of the test's parameters, as keyword arguments."""
    lists = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args[:2]
            names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
            rows = [value if len(names) > 1 else (value,) for value in values]
            lists.append([dict(zip(names, row, strict=True)) for row in rows])
    found = [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*lists)]
    return [found[0], found[-1]] if len(found) > 1 else found


def calls(device: torch.device) -> Iterator[tuple[str, Callable[..., None], dict[str, Any]]]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16
    for module_name in MODULES:
        module = importlib.import_module(f"tests.engine.kernels.test_{module_name}")
        for name, test in inspect.getmembers(module, inspect.isfunction):
            wanted = set(inspect.signature(test).parameters)
            for fields in combinations(test) if name.startswith("test_") else []:
                given = {key: value for key, value in (("device", device), ("dtype", dtype)) if key in wanted}
                if wanted == set(fields) | set(given):
                    yield f"{module_name}.{name}", test, {**fields, **given}


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        importlib.import_module("tests.engine.kernels.conftest")  # the interpreter
    failed, count, started = [], 0, time.monotonic()
    for name, test, fields in calls(device):
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        count += 1
        try:
            test(**fields)
        except AssertionError as error:
            failed.append(f"{name} {fields}: {error}"[:300])
    if device.type == "cuda":
        torch.cuda.synchronize()
    sys.stdout.write("".join(f"FAILED {text}\n" for text in failed))
    sys.stdout.write(f"kernels ran: {count} tests in {time.monotonic() - started:.0f} s, {len(failed)} failed\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
