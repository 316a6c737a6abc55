"""What is compiled ahead, without a GPU, is what the engine then looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "oai_server" / "demo_model"
START = """
import sys
import time
from triton import knobs
from engine.config import EngineConfig
from engine.runner import compile_ahead
from engine.runner.factory import build_runner
fields = {"device": "cuda", "max_model_len": 512, "max_num_seqs": 40, "num_blocks": 100, "dtype": "bfloat16"}
config = EngineConfig(sys.argv[1], **fields)
ahead = compile_ahead.compile_for(config, compile_ahead.compute_capability(0), workers=4)
ahead.wait()
while not ahead.finished():
    time.sleep(0.05)
missed = []
knobs.compilation.listener = lambda src, cache_hit, **_: cache_hit or missed.append(src.name)
runner, _ = build_runner(config, lambda phase, fraction, detail: None)
runner.warm_up()
while runner.prepare_more():
    pass
print("missed:", *missed)
"""


def test_the_engine_compiles_nothing_for_its_decode_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", START, str(MODEL)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    missed = done.stdout.splitlines()[-1].removeprefix("missed:").split()
    assert set(missed) <= {"_scatter"}, done.stderr
