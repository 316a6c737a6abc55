"""Greedy generation for many prompts at once with the training network, to score the model where it was trained."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from training.instances import FREE, Instance, Score, instances
from training.model import DemoModel
from training.rendering import prompt_of

log = logging.getLogger("evaluation")


class Cache:
    """Keys and values [layers][B, kv heads, room, D] of a padded batch; rows have their own lengths."""

    def __init__(self, model: DemoModel, batch: int, room: int, dtype: torch.dtype) -> None:
        s, device = model.shape, model.embed.device
        shape = (s.num_hidden_layers, batch, s.num_key_value_heads, room, s.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)

    def attend(self, positions: Tensor) -> Any:
        """The attention function for tokens at these positions [B, T]: it stores keys and values, then looks back."""
        rows = torch.arange(positions.shape[0], device=positions.device)[:, None]
        room = int(positions.max()) + 1
        mask = torch.arange(room, device=positions.device)[None, None, :] <= positions[:, :, None]

        def run(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer][rows, :, positions] = k.transpose(1, 2)
            self.values[layer][rows, :, positions] = v.transpose(1, 2)
            keys, values = self.keys[layer][:, :, :room], self.values[layer][:, :, :room]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask[:, None], enable_gqa=True)

        return run


@torch.inference_mode()
def generate(
    model: DemoModel, prompts: list[list[int]], most: int, stops: set[int], dtype: torch.dtype
) -> list[list[int]]:
    """Greedy continuations without their stop token; one that is `most` long did not end by itself."""
    device = model.embed.device
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    longest = int(lengths.max())
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
    cache = Cache(model, len(prompts), longest + most, dtype)
    positions = torch.arange(longest, device=device).expand(len(prompts), longest)
    hidden = model(ids, positions, cache.attend(positions), dtype)
    last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    stop_ids = torch.tensor(sorted(stops), device=device)
    produced = []
    for step in range(most):
        token = F.linear(last, model.embed.to(dtype)).float().argmax(-1)
        produced.append(token)
        done |= torch.isin(token, stop_ids)
        if step % 16 == 15 and bool(done.all()):
            break
        position = (lengths + step)[:, None]
        last = model(token[:, None], position, cache.attend(position), dtype)[:, 0]
    rows = torch.stack(produced, 1).tolist()
    return [row[: next((i for i, t in enumerate(row) if t in stops), len(row))] for row in rows]


def evaluate_model(
    model: DemoModel,
    tokenizer_file: Path,
    count: int,
    report: Path,
    room: int = 120_000,
    most: int = 320,
    tasks: list[str] | None = None,
) -> dict[str, Score]:
    """Score `count` held-out instances of every task; writes the rates and a few wrong replies as JSON."""
    began = time.monotonic()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))  # what the checkpoint holds
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    stops = {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    items: list[tuple[list[int], Instance]] = [
        (tokenizer.encode(prompt_of(item.conversation), add_special_tokens=False).ids, item)
        for item in instances(count, tasks)
    ]
    items = sorted((pair for pair in items if len(pair[0]) <= 1700), key=lambda pair: len(pair[0]))
    scores: dict[str, Score] = {}
    wrong: dict[str, list[dict[str, str]]] = {}
    dtype = torch.bfloat16 if model.embed.is_cuda else torch.float32
    while items:
        longest, taken = 0, 0  # as many prompts as fit padded into the room
        while taken < len(items) and max(longest, len(items[taken][0])) * (taken + 1) <= room and taken < 700:
            longest, taken = max(longest, len(items[taken][0])), taken + 1
        part, items = items[:taken], items[taken:]
        for (_, item), ids in zip(part, generate(model, [p for p, _ in part], most, stops, dtype), strict=True):
            reply = tokenizer.decode(ids, skip_special_tokens=False)
            ended = len(ids) < most
            right = ended and (item.task in FREE or item.right(reply))
            scores.setdefault(item.task, Score()).add(right=right, ended=ended)
            if not right and len(wrong.setdefault(item.task, [])) < 12:
                asked = prompt_of(item.conversation)
                wrong[item.task].append(
                    {
                        "prompt": asked[-1500:],
                        "reply": reply[:600],
                        "expected": str(item.expected.calls or item.expected.content),
                    }
                )
    lines = {
        name: {"n": s.count, "right": round(s.right / s.count, 4), "ended": round(s.ended / s.count, 4)}
        for name, s in sorted(scores.items())
    }
    ended = sum(s.ended for s in scores.values()) / sum(s.count for s in scores.values())
    report.write_text(
        json.dumps({"scores": lines, "ended": ended, "wrong": wrong}, ensure_ascii=False, indent=1) + "\n"
    )
    for name, line in lines.items():
        log.info("%-28s right %.4f  ended %.4f  of %d", name, line["right"], line["ended"], line["n"])
    log.info("replies that end by themselves: %.4f; %.0f s", ended, time.monotonic() - began)
    return scores
