"""transformers' `generate` as a process of its own: one JSON line in (batch, prompt, output, seed), one out.

python -m benchmarks.transformers_worker MODEL_DIR THREADS DTYPE [DEVICE]

A folder without weight files gives a model of random weights: speed does not depend on their values. transformers has
no class for Qwen 1; within its trained length Qwen 1 computes what Qwen2 does with as many key heads as query heads,
so a Qwen2 of the same sizes stands in for it.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """Notes when each token of the batch comes out; `generate` calls `put` with the prompt first."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, value: Any) -> None:
        if value.device.type == "cuda":
            torch.cuda.synchronize()
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is buffered."""


def run(model: Any, batch: int, prompt: int, output: int, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    highest = min(150_000, model.config.vocab_size)
    token_ids = torch.randint(0, highest, (batch, prompt), generator=generator).to(model.device)
    unfinished = torch.zeros(batch, dtype=torch.bool, device=model.device)
    clock = Clock()

    def watch(ids: torch.Tensor, _: object) -> torch.Tensor:
        clock.put(ids)
        return unfinished

    began_s = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            max_new_tokens=output,
            min_new_tokens=output,
            do_sample=False,
            # Only one sequence may be streamed, so for a batch the token times come from the stopping check below.
            stopping_criteria=[watch],
        )
    took_s = time.perf_counter() - began_s
    times_s = clock.times_s
    return {
        "tokens_per_s": batch * output / took_s,
        "ttft_s": [times_s[0] - began_s] * batch,
        "itl_s": [later - earlier for earlier, later in itertools.pairwise(times_s)],
        "peak_bytes": torch.cuda.max_memory_allocated()
        if model.device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def stand_in(fields: dict[str, Any]) -> Qwen2Config:
    """A Qwen2 with the sizes of a Qwen 1 config.json, in either of its spellings."""

    def first(*names: str) -> Any:
        return next(fields[name] for name in names if name in fields)

    heads = first("num_attention_heads", "n_head")
    return Qwen2Config(
        vocab_size=first("padded_vocab_size", "vocab_size"),
        hidden_size=first("hidden_size", "n_embd"),
        num_hidden_layers=first("num_hidden_layers", "n_layer"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=first("intermediate_size", "ffn_hidden_size") // 2,
        max_position_embeddings=fields["seq_length"],
        rms_norm_eps=fields["layer_norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": float(fields["rotary_emb_base"])},
        tie_word_embeddings=False,
    )


def load(folder: Path, dtype: str, device: str) -> Any:
    """The model, in evaluation mode, on the device."""
    if any(folder.glob("*.safetensors")):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    fields = json.loads((folder / "config.json").read_text())
    config = stand_in(fields) if fields["model_type"] == "qwen" else AutoConfig.from_pretrained(folder)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.eval()


def main() -> None:
    folder, threads, dtype, *device = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = load(Path(folder), dtype, device[0] if device else "cpu")
    model.generation_config.pad_token_id = 0
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(model, **json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
