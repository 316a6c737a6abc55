"""Speed of two servers on one CPU, one after the other: same checkpoint shape, same requests, medians of three.

The checkpoint has Qwen2.5-0.5B's shape with random weights, so that nothing has to be downloaded.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

PROMPT_TOKENS = 128
OUTPUT_TOKENS = 128
VOCABULARY = 151_643


@dataclass(frozen=True)
class Level:
    """One run of one number of clients."""

    clients: int
    tokens_per_s: float
    ttft_ms: float
    itl_ms: float


async def _one(client: httpx.AsyncClient, model: str, prompt: list[int]) -> tuple[float, list[float], int]:
    """TTFT, gaps between chunks that carried text, and tokens by the server's own count."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": OUTPUT_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start = time.perf_counter()
    times: list[float] = []
    tokens = 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event["choices"]:
                times.append(time.perf_counter())
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return times[0] - start, gaps, tokens


async def run_level(url: str, model: str, clients: int, seed: int) -> Level:
    rng = random.Random(seed)
    prompts = [[rng.randrange(100, VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(clients)]
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        start = time.perf_counter()
        replies = await asyncio.gather(*(_one(client, model, prompt) for prompt in prompts))
        wall_s = time.perf_counter() - start
    return Level(
        clients,
        sum(tokens for _, _, tokens in replies) / wall_s,
        1e3 * statistics.median(ttft for ttft, _, _ in replies),
        1e3 * statistics.median(gap for _, gaps, _ in replies for gap in gaps),
    )


def measure(url: str, model: str, levels: tuple[int, ...], runs: int = 3) -> dict[int, list[Level]]:
    """Every level `runs` times with fresh prompts (a repeated prompt would measure the prefix cache)."""
    asyncio.run(run_level(url, model, 2, seed=1))
    return {
        clients: [asyncio.run(run_level(url, model, clients, seed=1000 * clients + run)) for run in range(runs)]
        for clients in levels
    }


def table(results: dict[str, dict[int, list[Level]]]) -> str:
    lines = [
        "| server | clients | tok/s median (min-max) | TTFT ms | ITL ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for server, by_clients in results.items():
        for clients, runs in by_clients.items():
            rates = sorted(run.tokens_per_s for run in runs)
            lines.append(
                f"| {server} | {clients} | {statistics.median(rates):.1f} ({rates[0]:.1f}-{rates[-1]:.1f}) "
                f"| {statistics.median(run.ttft_ms for run in runs):.0f} "
                f"| {statistics.median(run.itl_ms for run in runs):.1f} |"
            )
    return "\n".join(lines)


def make_checkpoint(folder: Path, tokenizer: Path) -> None:
    """Qwen2.5-0.5B's shape, random bf16 weights, scaled so that greedy text does not stick to one token."""
    if (folder / "model.safetensors").exists():
        return
    import shutil

    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        eos_token_id=151_645,
        bos_token_id=151_643,
    )
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.model.norm.weight.data.fill_(8.0)
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.data.mul_(2)
            projection.bias.data.normal_(0, 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
