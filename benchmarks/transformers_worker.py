"""transformers' `generate` as a process of its own: one JSON line in (batch, prompt, output), one JSON line out.

python -m benchmarks.transformers_worker MODEL_DIR THREADS DTYPE
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """Notes when each token of the batch comes out; `generate` calls `put` with the prompt first."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, value: Any) -> None:
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is buffered."""


def run(model: Any, batch: int, prompt: int, output: int, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, 150_000, (batch, prompt), generator=generator)
    clock = Clock()
    began_s = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            max_new_tokens=output,
            min_new_tokens=output,
            do_sample=False,
            # Only one sequence may be streamed, so for a batch the token times come from the stopping check below.
            stopping_criteria=[lambda ids, scores: clock.put(ids) or torch.zeros(len(ids), dtype=torch.bool)],
        )
    took_s = time.perf_counter() - began_s
    times_s = clock.times_s
    return {
        "tokens_per_s": batch * output / took_s,
        "ttft_s": [times_s[0] - began_s] * batch,
        "itl_s": [later - earlier for earlier, later in itertools.pairwise(times_s)],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    folder, threads, dtype = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(model, **json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
