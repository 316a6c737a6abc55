"""What the README and the quick start tell people to paste, pasted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import demo_server

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/quickstart.md", "docs/clients.md")
MISSING = {"llama_index": "LlamaIndex", "langchain_openai": "LangChain"}


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, code in enumerate(re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)):
            found.append((f"{page}:{number}", code))
    return found


def is_request(code: str) -> bool:
    return code.startswith("curl")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with demo_server() as address:
        yield address


@pytest.mark.parametrize(("where", "code"), blocks("python"), ids=[where for where, _ in blocks("python")])
def test_python(where: str, code: str, url: str) -> None:
    for module, name in MISSING.items():
        if module in code:
            pytest.importorskip(module, reason=f"{name} is not installed")
    code = code.replace("http://127.0.0.1:8000", url)
    if "client." in code and "client =" not in code:  # goes on from the block before it
        code = f'from openai import OpenAI\nclient = OpenAI(base_url="{url}/v1", api_key="none")\n{code}'
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() or "print" not in code


SHELL = [(where, code) for where, code in blocks("bash") if is_request(code)]


@pytest.mark.parametrize(("where", "code"), SHELL, ids=[where for where, _ in SHELL])
def test_curl(where: str, code: str, url: str) -> None:
    script = "set -e\n" + code.replace("http://127.0.0.1:8000", url).replace("curl ", "curl -sS --fail-with-body ")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"error"' not in done.stdout
    if "stream" not in code and done.stdout.count("\n") <= 1:
        assert json.loads(done.stdout)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
