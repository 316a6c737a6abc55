"""Time decode steps under every plan, remember the fastest for this GPU: `python -m benchmarks.gpu_tune MODEL_DIR`.

Weights are random; what is measured is the whole captured step, so that nothing is warm that would not be in service.
The engine reads the file at its next start.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time

import torch

from engine.config import EngineConfig
from engine.models.config import load_model_config
from engine.runner.cuda_plans import save_plans
from engine.runner.cuda_runner import CudaRunner
from engine.runner.factory import build_runner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="folders with config.json")
    args = parser.parse_args()
    for folder in args.models:
        started = time.perf_counter()
        config = EngineConfig(
            folder, device="cuda", load_format="dummy", max_model_len=4096, max_num_seqs=64, num_blocks=200
        )
        runner, _ = build_runner(config, lambda phase, fraction, detail: None)
        if not isinstance(runner, CudaRunner):
            sys.exit("needs an NVIDIA GPU")
        for rows, plans in runner.measure_plans().items():
            times = ", ".join(
                f"{'own' if p.own else 'cublas'}{' overlap' * p.pdl}{' prefetch' * p.prefetch} {ms:.3f}"
                for p, ms in sorted(plans.items(), key=lambda entry: entry[1])
            )
            sys.stdout.write(f"{folder} rows {rows}: {times} ms\n")
        path = save_plans(runner.plans, load_model_config(folder), torch.device("cuda", torch.cuda.current_device()))
        sys.stdout.write(f"{path} in {time.perf_counter() - started:.0f} s\n")
        del runner
        gc.collect()  # graphs and runner hold each other
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
