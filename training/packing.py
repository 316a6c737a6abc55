"""Worker processes that write documents, tokenize them and pack them into rows."""

from __future__ import annotations

import multiprocessing as mp
import os
import queue
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.conversation import build
from training.rendering import segments

ROW = 2048
"""Tokens a row; no document is longer or crosses rows."""
POOL = 192
"""Documents a worker holds to choose the next that fits."""


class Document(NamedTuple):
    ids: list[int]
    learnt: list[bool]


class Rows(NamedTuple):
    """Packed rows [R, ROW]: token ids, whether each token is learnt, and which document of its row it is in."""

    ids: NDArray[np.uint16]
    learnt: NDArray[np.bool_]
    document: NDArray[np.int16]


def documents(tokenizer: Tokenizer, prefix: str) -> Iterator[Document]:
    """The endless stream of one worker's documents; those that are too long are left out."""
    end = tokenizer.token_to_id("<|endoftext|>")
    number = 0
    while True:
        texts: list[str] = []
        marks: list[list[bool]] = []
        for _ in range(64):
            document = build(f"{prefix}-{number}")
            number += 1
            parts = [(document, True)] if isinstance(document, str) else segments(document)
            texts += [text for text, _ in parts]
            marks.append([learnt for _, learnt in parts])
        encoded = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        for flags in marks:
            ids: list[int] = []
            learnt: list[bool] = []
            for flag in flags:
                piece = next(encoded).ids
                ids += piece
                learnt += [flag] * len(piece)
            if len(flags) == 1:
                ids.append(end)
                learnt.append(True)
            if len(ids) <= ROW:
                yield Document(ids, learnt)


def pack(stream: Iterator[Document], rows: int) -> Iterator[Rows]:
    """Blocks of rows, each row filled with the largest waiting documents that fit."""
    pool = sorted((next(stream) for _ in range(POOL)), key=lambda d: len(d.ids))
    while True:
        block = Rows(
            np.zeros((rows, ROW), np.uint16), np.zeros((rows, ROW), np.bool_), np.full((rows, ROW), -1, np.int16)
        )
        for row in range(rows):
            used = number = 0
            while True:
                fitting = [i for i, d in enumerate(pool) if len(d.ids) <= ROW - used]
                if not fitting:
                    break
                # A random document until the row is nearly full, then the best fit: rows stay mixed and nearly full.
                best = random.choice(fitting) if ROW - used > 512 else max(fitting, key=lambda i: len(pool[i].ids))
                document = pool.pop(best)
                stop = used + len(document.ids)
                block.ids[row, used:stop] = document.ids
                block.learnt[row, used:stop] = document.learnt
                block.document[row, used:stop] = number
                used, number = stop, number + 1
                pool.append(next(stream))
        yield block


def _work(tokenizer_file: str, prefix: str, rows: int, out: mp.Queue[Rows]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    random.seed(prefix)
    for block in pack(documents(Tokenizer.from_file(tokenizer_file), prefix), rows):
        out.put(block)


class Source:
    """Blocks from worker processes. When they fall behind, earlier blocks are handed out again."""

    def __init__(self, tokenizer_file: Path, workers: int, rows: int, prefix: str, keep: int = 4096) -> None:
        context = mp.get_context("spawn")
        self._queue: mp.Queue[Rows] = context.Queue(maxsize=64)
        self._kept: list[Rows] = []
        self._keep = keep
        self.fresh = self.repeated = 0
        self._workers = [
            context.Process(target=_work, args=(str(tokenizer_file), f"{prefix}-{i}", rows, self._queue), daemon=True)
            for i in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def next(self) -> Rows:
        try:
            block = self._queue.get(timeout=None if len(self._kept) < 32 else 0.002)
        except queue.Empty:
            self.repeated += 1
            return random.choice(self._kept)
        self.fresh += 1
        if len(self._kept) < self._keep:
            self._kept.append(block)
        else:
            self._kept[random.randrange(self._keep)] = block
        return block

    def close(self) -> None:
        for worker in self._workers:
            worker.terminate()
