"""The house's rules that a machine can check: import direction, where torch may be, file and function length."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("engine", "adapters", "oai_server")
MAY_IMPORT = {"engine": {"engine"}, "adapters": {"adapters", "engine"}, "oai_server": set(ROOMS)}
TORCH_FOLDERS = ("models", "attention", "runner", "sampling", "memory", "native", "kernels")
TORCH_FILES = {"engine/inference.py", "engine/process/server.py"}
HTTP_ONLY = {"litestar", "sse_starlette", "uvicorn", "starlette"}


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, node.lineno


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_left_to_right_only(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(room)
        for module, line in imported_modules(path)
        if (top := module.split(".")[0]) in ROOMS and top not in MAY_IMPORT[room]
    ]
    assert wrong == []


def test_torch_stays_in_the_execution_folders() -> None:
    wrong = []
    for path in sources(*ROOMS):
        name = path.relative_to(ROOT).as_posix()
        parts = name.split("/")
        allowed = name in TORCH_FILES or (parts[0] == "engine" and parts[1] in TORCH_FOLDERS)
        if not allowed:
            wrong += [
                f"{name}:{line}"
                for module, line in imported_modules(path)
                if module.split(".")[0] in {"torch", "triton", "flash_attn"}
            ]
    assert wrong == []


def test_http_libraries_stay_in_the_http_room() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources("engine", "adapters")
        for module, line in imported_modules(path)
        if module.split(".")[0] in HTTP_ONLY
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["engine", "engine.process.client", "adapters.engine_backend", "oai_server.app"])
def test_the_front_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_the_port_is_open_before_heavy_libraries_are_imported() -> None:
    """/health answers within a second of the command; what only requests need comes while the engine loads."""
    heavy = (
        "torch",
        "numpy",
        "tokenizers",
        "jinja2",
        "llguidance",
        "huggingface_hub",
        "rich",
        "typer",
        "pydantic",
    )
    code = f"import sys, oai_server.cli, oai_server.start; sys.exit(str([m for m in {heavy} if m in sys.modules]))"
    ended = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr.strip() == "[]"


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(*ROOMS)}
    assert {str(p): n for p, n in lengths.items() if n > 400} == {}
    assert statistics.median(lengths.values()) <= 120


def test_functions_stay_short() -> None:
    wrong = []
    for path in sources(*ROOMS):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                end = node.end_lineno or node.lineno
                # A Triton kernel is one function by nature; half of it is its signature.
                kernel = any(
                    f"{jit}.jit" in ast.unparse(d) for d in node.decorator_list for jit in ("triton", "gluon")
                )
                limit = 90 if kernel else 50
                if end - node.lineno >= limit:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert wrong == []
