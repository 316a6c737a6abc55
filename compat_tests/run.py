"""`python -m compat_tests.run [--vllm] [--speed] [pytest's options]`: start the servers, run the suite, stop them.

Without flags: this server alone with the bundled demo model. --vllm: vLLM's CPU build beside it, on the same
checkpoint in float32. --speed: instead of the suite, a table of both servers' speed, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from compat_tests import speed
from compat_tests.servers import HERE, ROOT, our_server, vllm_server

DEMO = ROOT / "oai_server" / "demo_model"
NAME = "demo"
PEER_FLAGS = ("--max-model-len", "2048", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
SIDE_BY_SIDE = HERE / "test_side_by_side.py"
logger = logging.getLogger("compat")


def run_suite(checkpoint: Path, with_vllm: bool, pytest_args: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        logs = Path(folder)
        plain = ("--generation-config", "vllm")
        ours = servers.enter_context(our_server(checkpoint, NAME, "float32", *plain, log=logs / "ours.log"))
        args = [str(HERE), "-vv", "--base-url", ours]
        if with_vllm:
            flags = (*plain, *PEER_FLAGS)
            peer = servers.enter_context(vllm_server(checkpoint, NAME, "float32", *flags, log=logs / "vllm.log"))
            args += ["--peer-url", peer]
        else:
            args += ["--ignore", str(SIDE_BY_SIDE)]
        code = subprocess.call([sys.executable, "-m", "pytest", *args, *pytest_args], cwd=ROOT)
    if not with_vllm:
        logger.info(
            "Clients against this server alone. `make compat-vllm` also sends each request to vLLM's CPU build."
        )
    return code


def run_speed(levels: tuple[int, ...], with_vllm: bool) -> int:
    checkpoint = speed.checkpoint()
    flags = ("--max-model-len", "4096", "--generation-config", "vllm")
    servers = {"vLLM 0.32.0 CPU, eager": vllm_server} if with_vllm else {}
    servers["this server"] = our_server
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, server in servers.items():
            with server(checkpoint, NAME, "bfloat16", *flags, log=Path(folder) / "server.log") as url:
                results[title] = speed.measure(url, NAME, levels)
    machine = platform.processor() or platform.machine()
    logger.info("%s, %d cores, Python %s\n", machine, os.cpu_count(), platform.python_version())
    logger.info("%s", speed.table(results))
    return 0


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each look at /health
    parser = argparse.ArgumentParser(
        prog="compat_tests.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm", action="store_true", help="start vLLM's CPU build beside this server")
    parser.add_argument("--speed", action="store_true", help="measure speed instead of running the suite")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="folder of the checkpoint for the suite")
    parser.add_argument("--levels", default="1,4,8", help="client counts for --speed")
    args, pytest_args = parser.parse_known_args()
    if args.speed:
        return run_speed(tuple(int(level) for level in args.levels.split(",")), args.vllm)
    return run_suite(args.checkpoint, args.vllm, pytest_args)


if __name__ == "__main__":
    sys.exit(main())
