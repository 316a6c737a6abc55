"""Rows G19, H01, H04, H05: checkpoints that are damaged, hostile or absurd. The start says so in a line, or goes on.

The server's whole command runs on folders made from the bundled model; nothing in them may be executed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.test_http_processes import streams, whole
from tests.support.fault_runner import Script
from tests.support.fault_tree import Server
from tests.support.server_process import DEMO, ROOT, demo_process


def without_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def with_pickles(folder: Path) -> None:
    """H01: a pickle that says so when it is read."""
    without_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(folder).encode() + b"/ran'\ntR.")


def truncated(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1000])


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def change(name: str, **fields: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return apply


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickles": (with_pickles, "safetensors"),
    "truncated weights": (truncated, "safetensors"),
    "wrong shapes": (change("config.json", hidden_size=512), ""),
    "unknown architecture": (change("config.json", architectures=["StrangeForCausalLM"], model_type="strange"), ""),
    "not JSON": (not_json, "config.json"),
}


def copy_of_demo(folder: Path) -> Path:
    if not list(DEMO.glob("*.safetensors")):
        pytest.skip("the demo model has no weights")
    shutil.copytree(DEMO, folder)
    return folder


def test_g19_h01_damaged_checkpoints_end_the_start_with_one_line(tmp_path: Path) -> None:
    def start(name: str) -> tuple[int, str]:
        damage, _ = REFUSED[name]
        folder = copy_of_demo(tmp_path / name.replace(" ", "-"))
        damage(folder)
        command = [sys.executable, "-m", "oai_server", "serve", "--port", "0", "--model", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200, check=False)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(4) as pool:
        ended = dict(zip(REFUSED, pool.map(start, REFUSED), strict=True))
    for name, (code, said) in ended.items():
        assert code not in (0, -9), (name, said)
        assert "Traceback" not in said, (name, said)
        assert REFUSED[name][1] in said.lower(), (name, said)
        assert sum(map(len, said.splitlines()[-2:])) < 1000
    assert not list(tmp_path.rglob("ran"))


def test_h01_h04_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    """auto_map, a module beside it, and a template that tries to get out of its sandbox."""
    folder = copy_of_demo(tmp_path / "model")
    marker = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    change("config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.C"})(
        folder
    )
    (folder / "chat_template.jinja").write_text(
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch "
        + str(marker)
        + "') }}"
    )
    with demo_process("--model", str(folder), "--max-model-len", "256") as (_, url):
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert reply.status_code in (200, 400, 500) and "subclass" not in reply.text
        text = httpx.post(f"{url}/v1/completions", json={"prompt": "Hi", "max_tokens": 2}, timeout=60)
        assert text.status_code == 200
    assert not marker.exists()


async def test_h05_absurd_defaults_of_a_checkpoint(tmp_path: Path) -> None:
    """generation_config.json is checked like a request: what is out of range is left out, with a warning."""
    server = Server(tmp_path, Script())
    try:
        path = tmp_path / "model" / "generation_config.json"
        absurd = {"temperature": -5, "top_p": 7, "top_k": -3, "repetition_penalty": 0, "eos_token_id": [257]}
        path.write_text(json.dumps(absurd))
        server.wait_ready()
        assert await streams(server.url, 4, 20) == whole(4, 20)
    finally:
        server.close()
