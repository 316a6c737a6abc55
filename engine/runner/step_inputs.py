"""From a step's rows to index tensors, on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from engine.attention.base import AttentionMetadata
from engine.runner.batch import StepBatch


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What one forward pass reads. Token tensors are int64."""

    token_ids: torch.Tensor  # [tokens]
    metadata: AttentionMetadata
    last_tokens: list[int]
    """Of each row: the number of its last token in the step."""
    broken: tuple[int, ...]
    """Rows with an id outside the vocabulary; it was replaced, their results mean nothing."""


def build_inputs(batch: StepBatch, block_size: int, vocab_size: int) -> StepInputs:
    """Token ids come from the sequences, so all of a row's tokens must be known on the host.

    Ids are checked here once more: a kernel that looks one up in the embedding does not.
    """
    rows = batch.rows
    counts = [row.count for row in rows]
    contexts = [row.start + row.count for row in rows]
    tables = [
        tuple(r.sequence.block_table[: -(-context // block_size)]) for r, context in zip(rows, contexts, strict=True)
    ]
    token_ids: list[int] = []
    broken = []
    for number, row in enumerate(rows):
        ids = row.sequence.token_ids[row.start : row.start + row.count + 1]  # the next one too, for prompt logprobs
        if min(ids) < 0 or max(ids) >= vocab_size:
            broken.append(number)
            ids = [0] * row.count
        token_ids += ids[: row.count]
    starts = np.concatenate(([0], np.cumsum(counts)))
    table = np.zeros((len(rows), max(map(len, tables))), dtype=np.int32)
    for number, blocks in enumerate(tables):
        table[number, : len(blocks)] = blocks
    row_of_token = np.repeat(np.arange(len(rows)), counts)
    first = np.array([row.start for row in rows]) - starts[:-1]
    positions = np.arange(starts[-1]) + first[row_of_token]
    slots = table[row_of_token, positions // block_size].astype(np.int64) * block_size + positions % block_size
    metadata = AttentionMetadata(
        query_start=torch.from_numpy(starts.astype(np.int32)),
        context_len=torch.tensor(contexts, dtype=torch.int32),
        block_table=torch.from_numpy(table),
        slot_mapping=torch.from_numpy(slots),
        positions=torch.from_numpy(positions),
        num_decode_rows=batch.num_decode_rows,
        max_query_len=max(counts),
        max_context_len=max(contexts),
        block_size=block_size,
        host_rows=tuple(zip(counts, contexts, tables, strict=True)),
    )
    return StepInputs(torch.tensor(token_ids), metadata, (starts[1:] - 1).tolist(), tuple(broken))
