"""Kernels are compiled ahead for a GPU that is not here: once each, by processes that end with their parent."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from engine.config import EngineConfig
from engine.runner import compile_ahead

pytest.importorskip("triton", reason="kernels need Triton")

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "oai_server" / "demo_model"
CONFIG = EngineConfig(str(MODEL), dtype="bfloat16", attention_backend="triton", max_num_seqs=2, max_model_len=512)
HOPPER = (9, 0)

HOLD = """
import sys
from engine.runner.compile_worker import Claims
print([Claims(int(sys.argv[1])).take(n) for n in (0, 1, 0)], flush=True)
sys.stdin.read()
"""
PARENT = """
import sys, time
from engine.config import EngineConfig
from engine.runner import compile_ahead
import msgspec
config = msgspec.json.decode(sys.argv[1], type=EngineConfig)
ahead = compile_ahead.compile_for(config, (9, 0), 2)
print(*(worker.pid for worker in ahead._workers), flush=True)
time.sleep(60)
"""
WALK = """
import sys
import msgspec
from triton import knobs
from triton.runtime import driver
from engine.config import EngineConfig
from engine.runner.compile_ahead import CompileJob
from engine.runner.compile_worker import PaperDriver, paper_runner
met = []
knobs.runtime.jit_cache_hook = lambda *, fn, **_: met.append(fn.name.rpartition(".")[2]) or True  # none is compiled
driver.set_active(PaperDriver((9, 0)))
runner = paper_runner(CompileJob(msgspec.json.decode(sys.argv[1], type=EngineConfig), (9, 0), 0))
for rehearse in (*runner.rehearsals(), *runner.mixed_rehearsals()):
    rehearse()
assert "_shared_prefix" not in met and "_paged_prefill" in met, met
for rehearse in runner.later_rehearsals():
    rehearse()
print(*{"_shared_prefix"} & set(met), *[name for name in ("sympy", "torch._dynamo") if name in sys.modules], "walked")
"""
START = """
import sys
import msgspec
import torch
from triton import knobs
from triton.runtime import driver
from engine.config import EngineConfig
from engine.runner.compile_ahead import CompileJob
from engine.runner.compile_worker import PaperDriver, paper_runner
from engine.runner.cuda_buffers import MixedShape
from engine.runner.cuda_runner import CHUNK_ROWS
met = set()
knobs.runtime.jit_cache_hook = lambda *, key, fn, **_: met.add((fn.name, str(key))) or True
driver.set_active(PaperDriver((9, 0)))
runner = paper_runner(CompileJob(msgspec.json.decode(sys.argv[1], type=EngineConfig), (9, 0), 0))
for rehearse in (*runner.rehearsals(), *runner.mixed_rehearsals()):
    rehearse()
ahead = set(met)
with torch.inference_mode():
    for size in runner._sizes:
        runner._steps.decode_logits(size)
    for rows in runner._mixed_sizes:
        for tokens in runner._chunk_sizes:
            runner._steps.mixed_logits(MixedShape(rows, CHUNK_ROWS, tokens))
print(*sorted(name for name, _ in met - ahead), "missed")
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # workers inherit it
    return tmp_path / "cache"


def test_nothing_begins_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_ahead, "compute_capability", lambda index: None)
    assert compile_ahead.begin(CONFIG) is None
    monkeypatch.setattr(compile_ahead, "compute_capability", lambda index: HOPPER)
    for changed in ({"device": "cpu"}, {"device": "mps"}, {"device": "cuda:x"}, {"enforce_eager": True}):
        assert compile_ahead.begin(msgspec.structs.replace(CONFIG, **changed)) is None


def test_the_driver_is_asked_for_a_device_that_is_not_here() -> None:
    assert compile_ahead.compute_capability(97) is None


def test_every_kernel_is_compiled_and_later_starts_know_it(cache: Path) -> None:
    ahead = compile_ahead.compile_for(CONFIG, HOPPER, workers=2)
    assert ahead is not None
    ahead.wait()
    _wait_for_the_rest(ahead)
    kernels = sorted(path.stem for path in cache.glob("*/*.cubin"))
    assert {"_paged_decode", "_paged_prefill", "_add_rms_norm", "_qk_norm_rope_store", "_gemv"} <= set(kernels)
    assert {"_prepare_rows", "_best_of_row", "_skinny_gemm", "_thresholds", "_penalise"} <= set(kernels)
    assert _mark(CONFIG).exists()
    assert compile_ahead.compile_for(CONFIG, HOPPER, workers=2) is None
    for changed in ({"max_num_seqs": 3}, {"max_model_len": 256}, {"dtype": "float16"}):
        assert not _mark(msgspec.structs.replace(CONFIG, **changed)).exists()
    assert not _mark(CONFIG, (8, 0)).exists()


def test_a_failed_worker_leaves_no_mark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text("{}")
    broken = msgspec.structs.replace(CONFIG, model_path=str(tmp_path))
    ahead = compile_ahead.compile_for(broken, HOPPER, workers=1)
    assert ahead is not None
    with caplog.at_level(logging.WARNING):
        ahead.wait()
        _wait_for_the_rest(ahead)
    assert "1 of 1 kernel compilers failed" in caplog.text
    assert not _mark(broken).exists()


def test_too_slow_workers_are_ended(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(compile_ahead, "PATIENCE_S", 0.0)
    ahead = compile_ahead.compile_for(CONFIG, HOPPER, workers=2)
    assert ahead is not None
    with caplog.at_level(logging.WARNING):
        ahead.wait()
    assert "the engine compiles them itself" in caplog.text
    assert all(worker.returncode is not None for worker in ahead._workers)
    assert not _mark(CONFIG).exists()


def test_workers_end_with_their_parent() -> None:
    text = msgspec.json.encode(CONFIG).decode()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, text], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    deadline_s = time.monotonic() + 30
    while any(_lives(pid) for pid in workers) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert [pid for pid in workers if _lives(pid)] == []


def test_a_kernel_is_claimed_by_one_process(tmp_path: Path) -> None:
    from engine.runner.compile_worker import Claims

    with (tmp_path / "claims").open("w+b") as file:
        command = [sys.executable, "-c", HOLD, str(file.fileno())]
        other = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(file.fileno(),), cwd=ROOT
        )
        assert other.stdout is not None
        assert other.stdout.readline() == b"[True, True, True]\n"
        claims = Claims(file.fileno())
        assert [claims.take(number) for number in (0, 1, 2)] == [False, False, True]
        other.communicate()
        assert claims.take(0)


def test_compilers_that_are_not_needed_any_more_are_ended(caplog: pytest.LogCaptureFixture) -> None:
    ahead = compile_ahead.compile_for(CONFIG, HOPPER, workers=2)
    assert ahead is not None
    assert not ahead.finished()
    with caplog.at_level(logging.WARNING):
        ahead.stop()
        ahead.stop()
    assert ahead.finished()
    assert not _mark(CONFIG).exists()
    assert caplog.text == ""


def test_walking_through_steps_imports_nothing_for_symbolic_shapes() -> None:
    """Some operations on tensors without memory do, which costs each worker seconds."""
    fields = msgspec.json.encode(msgspec.structs.replace(CONFIG, max_num_seqs=40)).decode()
    done = subprocess.run([sys.executable, "-c", WALK, fields], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["_shared_prefix", "walked"]


@pytest.mark.parametrize("max_num_seqs", [1, 16])
def test_what_a_start_captures_is_compiled_ahead(max_num_seqs: int) -> None:
    """Steps with chunks have more rows of logits than few sequences decode."""
    fields = msgspec.json.encode(msgspec.structs.replace(CONFIG, max_num_seqs=max_num_seqs)).decode()
    done = subprocess.run([sys.executable, "-c", START, fields], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["missed"]


def test_compilers_that_never_end_are_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = compile_ahead.compile_for(CONFIG, HOPPER, workers=2)
    assert ahead is not None
    monkeypatch.setattr(compile_ahead, "LONGEST_S", 0.0)
    with caplog.at_level(logging.WARNING):
        assert ahead.finished()
    assert "the engine compiles them itself" in caplog.text
    assert all(worker.returncode is not None for worker in ahead._workers)
    assert not _mark(CONFIG).exists()


def test_compilers_end_before_a_cpu_build_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.runner import cpu_build
    from engine.runner.factory import build_runner

    ahead = compile_ahead.compile_for(CONFIG, HOPPER, workers=1)
    assert ahead is not None
    monkeypatch.setattr(compile_ahead, "begin", lambda config: ahead)
    monkeypatch.setattr(cpu_build, "build", lambda *_: ahead.finished())
    assert build_runner(msgspec.structs.replace(CONFIG, device="cpu"), lambda *_: None)


def _wait_for_the_rest(ahead: compile_ahead.AheadCompilation) -> None:
    deadline_s = time.monotonic() + 120
    while not ahead.finished():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def _mark(config: EngineConfig, capability: tuple[int, int] = HOPPER) -> Path:
    return compile_ahead.cache_folder() / f"compiled-ahead-{compile_ahead._digest(config, capability)}"


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return os.path.exists(f"/proc/{pid}")
