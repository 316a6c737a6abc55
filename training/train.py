"""Train the demo model within a time budget: `python -m training.train --output FOLDER --seconds 380`."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from training.model import DemoModel, Shape, save_checkpoint
from training.packing import ROW, Rows, Source

log = logging.getLogger("train")
MODEL_FOLDER = Path(__file__).parent.parent / "oai_server" / "demo_model"
LEARNT_SHARE = 0.32
"""Room for learnt tokens in a batch (their mean share is about 0.2); logits are computed for these only."""


def orthogonalized(gradient: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards U V^T, per matrix of a stack [n, rows, columns] (Muon, K. Jordan 2024)."""
    x = gradient.to(torch.bfloat16 if gradient.is_cuda else torch.float32)
    turned = x.shape[-2] > x.shape[-1]
    x = x.mT if turned else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if turned else x


class Muon:
    """Momentum with orthogonalized updates for stacked matrices, decoupled weight decay."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._state = [(p, torch.zeros_like(p)) for p in parameters]
        self._decay = decay

    @torch.no_grad()
    def step(self, rate: float, momentum: float) -> None:
        for p, average in self._state:
            assert p.grad is not None
            average.lerp_(p.grad, 1 - momentum)
            update = orthogonalized(p.grad.lerp(average, momentum))
            p.mul_(1 - rate * self._decay)
            p.add_(update.to(p.dtype), alpha=-rate * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)


def rate_factor(progress: float) -> float:
    """Warm-up over the first 1.5 % of the time, then a cosine down to 1 %."""
    if progress < 0.015:
        return 0.05 + 0.95 * progress / 0.015
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - 0.015) / 0.985)))


class Batches:
    """Device batches prepared by a thread: ids, documents, where the learnt tokens are and what they are."""

    def __init__(self, source: Source, rows: int, block_rows: int, device: torch.device) -> None:
        self._source, self._rows, self._block_rows, self._device = source, rows, block_rows, device
        self._ready: queue.Queue[tuple[Tensor, ...]] = queue.Queue(maxsize=6)
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        room = int(self._rows * ROW * LEARNT_SHARE)
        while True:
            blocks = [self._source.next() for _ in range(self._rows // self._block_rows)]
            tensors = self._tensors(blocks, room)
            if self._device.type == "cuda":
                tensors = tuple(t.pin_memory().to(self._device, non_blocking=True) for t in tensors)
            self._ready.put(tensors)

    @staticmethod
    def _tensors(blocks: list[Rows], room: int) -> tuple[Tensor, ...]:
        ids = np.concatenate([b.ids for b in blocks]).astype(np.int32)
        learnt = np.concatenate([b.learnt for b in blocks])
        document = np.concatenate([b.document for b in blocks]).astype(np.int32)
        # Position i learns token i + 1; a document's first token is never learnt from the document before it.
        learns = learnt[:, 1:] & (document[:, 1:] == document[:, :-1])
        rows, columns = np.nonzero(learns)
        if len(rows) > room:
            chosen = np.sort(np.random.default_rng(0).choice(len(rows), room, replace=False))
            rows, columns = rows[chosen], columns[chosen]
        where = np.zeros(room, np.int64)
        targets = np.full(room, -100, np.int64)
        where[: len(rows)] = rows * ROW + columns
        targets[: len(rows)] = ids[rows, columns + 1]
        return tuple(torch.from_numpy(a) for a in (ids, document, where, targets))

    def next(self) -> tuple[Tensor, ...]:
        return self._ready.get()


StepLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def loss_function(model: DemoModel, batch: tuple[Tensor, ...], *, flex: bool, compiled: bool) -> StepLoss:
    """(ids, document, where, targets) -> mean loss; attention stays inside each document when `flex`."""
    device = batch[0].device
    positions = torch.arange(ROW, device=device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    compile_if: Callable[[Any], Any] = partial(torch.compile, dynamic=False) if compiled else lambda f: f

    def loss(ids: Tensor, mask: Any, where: Tensor, targets: Tensor) -> Tensor:
        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if mask is None:
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)  # type: ignore[return-value]

        hidden = model(ids, positions, attend, dtype)
        logits = F.linear(hidden.flatten(0, 1)[where], model.embed.to(dtype)).float()
        return F.cross_entropy(logits, targets, ignore_index=-100)

    step_loss = compile_if(loss)
    if not flex:
        return lambda ids, _, where, targets: step_loss(ids, None, where, targets)
    current = batch[1].clone()  # one tensor and one function for all steps, so that nothing is compiled twice
    make_mask = compile_if(create_block_mask)

    def allowed(b: Tensor, _: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (current[b, i] == current[b, j])

    def within_documents(ids: Tensor, document: Tensor, where: Tensor, targets: Tensor) -> Tensor:
        current.copy_(document)
        mask = make_mask(allowed, ids.shape[0], None, ROW, ROW, device=device)
        return step_loss(ids, mask, where, targets)

    return within_documents


def chosen_loss(model: DemoModel, batches: Batches) -> StepLoss:
    """Flex attention where it works at speed, else plain causal attention over the packed row."""
    first = batches.next()
    cuda = first[0].is_cuda
    for flex, compiled in ((True, True), (False, True), (False, False)) if cuda else ((False, False),):
        function = loss_function(model, first, flex=flex, compiled=compiled)
        try:
            began = time.monotonic()
            for trial in (first, batches.next(), batches.next()):
                last = time.monotonic()
                function(*trial).backward()
                if cuda:
                    torch.cuda.synchronize()
                    log.info(
                        "trial step %.2f s, %.1f GiB",
                        time.monotonic() - last,
                        torch.cuda.max_memory_allocated() / 2**30,
                    )
            if time.monotonic() - last > 2 and cuda:
                raise RuntimeError("too slow")
        except Exception:
            log.exception("flex %s, compiled %s does not work here", flex, compiled)
        else:
            log.info(
                "attention within documents: %s, compiled: %s, ready in %.0f s",
                flex,
                compiled,
                time.monotonic() - began,
            )
            return function
        finally:
            model.zero_grad(set_to_none=True)
    raise RuntimeError("no attention works")


class Progress:
    """The loss curve, the log and the checkpoint at 60 %."""

    def __init__(self, output: Path, tokens_per_step: int, every: int, device: torch.device) -> None:
        self._output, self._tokens_per_step, self._every = output, tokens_per_step, every
        self._began = time.monotonic()
        self._sum = torch.zeros((), device=device)
        self._curve: list[dict[str, float]] = []
        self._saved = False

    def step(self, step: int, loss: Tensor, rate: float, source: Source) -> None:
        self._sum += loss
        if step % self._every:
            return
        seconds, tokens = time.monotonic() - self._began, step * self._tokens_per_step
        mean = self._sum.item() / self._every
        self._sum.zero_()
        point = {"step": step, "tokens": tokens, "seconds": round(seconds, 1), "loss": round(mean, 5), "rate": rate}
        self._curve.append(point)
        (self._output / "loss_curve.json").write_text(json.dumps(self._curve) + "\n")
        if step % (self._every * 5) == 0:
            repeated = source.repeated / (source.repeated + source.fresh)
            speed = tokens / seconds / 1e6
            log.info(
                "step %d  loss %.4f  %.0f M tokens  %.2f M/s  repeated %.2f",
                step,
                mean,
                tokens / 1e6,
                speed,
                repeated,
            )

    def save_once(self, model: DemoModel, done: float) -> None:
        if done > 0.6 and not self._saved:
            save_checkpoint(model, self._output)
            self._saved = True


def train(options: argparse.Namespace) -> DemoModel:
    """Train for the given seconds or steps, whichever ends first; the checkpoint lies in the output folder then."""
    began = time.monotonic()
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    model = DemoModel(Shape.read(options.config)).to(device)
    log.info("%.2f M parameters on %s", sum(p.numel() for p in model.parameters()) / 1e6, device)
    source = Source(options.tokenizer, options.workers, options.block_rows, f"train-{options.seed}")
    batches = Batches(source, options.rows, options.block_rows, device)
    step_loss = chosen_loss(model, batches)
    muon = Muon(model.matrices(), decay=0.01)
    fused = device.type == "cuda"
    adam = torch.optim.AdamW(model.others(), lr=options.adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
    progress = Progress(options.output, options.rows * ROW, options.log_every, device)
    started, step = time.monotonic(), 0
    budget = options.seconds - (started - began)
    while (done := max((time.monotonic() - started) / budget, step / options.steps)) < 1:
        factor = rate_factor(done)
        loss = step_loss(*batches.next())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step(options.muon_rate * factor, momentum=min(0.95, 0.85 + 0.1 * step / 300))
        adam.param_groups[0]["lr"] = options.adam_rate * factor
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        progress.step(step, loss.detach(), round(factor, 4), source)
        progress.save_once(model, done)
    save_checkpoint(model, options.output)
    source.close()
    seconds = time.monotonic() - began
    log.info("%d steps, %.0f M tokens, %.0f s in all", step, step * options.rows * ROW / 1e6, seconds)
    return model


def main() -> None:
    cores = os.cpu_count() or 2
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=MODEL_FOLDER / "config.json")
    parser.add_argument("--tokenizer", type=Path, default=MODEL_FOLDER / "tokenizer.json")
    parser.add_argument(
        "--seconds", type=float, default=380.0, help="the whole of it, start and compilation included"
    )
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=64, help="rows of 2048 tokens a step")
    parser.add_argument("--block-rows", type=int, default=8)
    parser.add_argument("--workers", type=int, default=max(1, cores - 2))
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate", type=int, default=0, metavar="N", help="then score N held-out instances a task")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options.output.mkdir(parents=True, exist_ok=True)
    model = train(options)
    if options.evaluate:
        from training.batch_generation import evaluate_model

        evaluate_model(model, options.tokenizer, options.evaluate, options.output / "evaluation.json")


if __name__ == "__main__":
    main()
