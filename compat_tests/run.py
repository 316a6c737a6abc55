"""`python -m compat_tests.run [--vllm] [--speed]`: start the servers, run the suite, stop them.

Without flags: this server alone with the bundled demo model. --vllm: vLLM's CPU build beside it, on the same
checkpoint in float32. --speed: instead of the suite, a table of both servers' speed, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path

import pytest

from compat_tests import speed
from compat_tests.servers import PEERS, ROOT, our_server, vllm_server

DEMO = ROOT / "oai_server" / "demo_model"
NAME = "demo"
PEER_FLAGS = ("--max-model-len", "2048", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
logger = logging.getLogger("compat")


def run_suite(checkpoint: Path, with_vllm: bool, pytest_args: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        logs = Path(folder)
        plain = ("--generation-config", "vllm")
        ours = servers.enter_context(our_server(checkpoint, NAME, "float32", *plain, log=logs / "ours.log"))
        args = ["compat_tests", "--base-url", ours, *pytest_args]
        if with_vllm:
            flags = (*plain, *PEER_FLAGS)
            args += [
                "--peer-url",
                servers.enter_context(vllm_server(checkpoint, NAME, "float32", *flags, log=logs / "vllm.log")),
            ]
        return int(pytest.main(args))


def run_speed(tokenizer: Path, levels: tuple[int, ...], with_vllm: bool) -> int:
    checkpoint = PEERS / "models" / "qwen2.5-0.5b-shape"
    speed.make_checkpoint(checkpoint, tokenizer)
    name = "qwen2.5-0.5b-shape"
    flags = ("--max-model-len", "4096", "--generation-config", "vllm")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if with_vllm:
            with vllm_server(checkpoint, name, "bfloat16", *flags, log=Path(folder) / "vllm.log") as url:
                results["vLLM 0.32.0 CPU, eager"] = speed.measure(url, name, levels)
        with our_server(checkpoint, name, "bfloat16", *flags, log=Path(folder) / "ours.log") as url:
            results["this server"] = speed.measure(url, name, levels)
    logger.info(
        "%s, %d cores, Python %s", platform.processor() or platform.machine(), os.cpu_count(), sys.version.split()[0]
    )
    logger.info("\n%s", speed.table(results))
    return 0


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="compat_tests.run", description=__doc__)
    parser.add_argument("--vllm", action="store_true", help="start vLLM's CPU build beside this server")
    parser.add_argument("--speed", action="store_true", help="measure speed instead of running the suite")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="folder of the checkpoint for the suite")
    parser.add_argument("--levels", default="1,4,8", help="client counts for --speed")
    parser.add_argument("--tokenizer", type=Path, help="folder with Qwen2.5's tokenizer.json, for --speed")
    args, pytest_args = parser.parse_known_args()
    if args.speed:
        tokenizer = args.tokenizer or ROOT.parent / "shared" / "qwen" / "tokenizers" / "qwen2.5"
        return run_speed(tokenizer, tuple(int(level) for level in args.levels.split(",")), args.vllm)
    return run_suite(args.checkpoint, args.vllm, pytest_args)


if __name__ == "__main__":
    sys.exit(main())
