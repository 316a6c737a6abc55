"""The compiled library as typed Python functions on torch tensors."""

from __future__ import annotations

import ctypes
import logging
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_uint64, c_void_p
from pathlib import Path

import torch

from engine.attention.base import AttentionMetadata
from engine.native.build import BuildError, enabled, library_path
from engine.native.structs import Model, Step

logger = logging.getLogger(__name__)

DTYPES = (torch.bfloat16, torch.float32)

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "oai_strip": (c_int, [c_int]),
    "oai_instructions": (c_char_p, []),
    "oai_create": (c_void_p, [c_int]),
    "oai_destroy": (None, [c_void_p]),
    "oai_linear": (c_int, [c_void_p] * 5 + [c_int] * 4),
    "oai_paged_attention": (c_int, [c_void_p] * 8 + [c_int] * 6 + [c_float, c_int64, c_int]),
    "oai_set_model": (c_int, [c_void_p, POINTER(Model)]),
    "oai_forward": (c_int, [c_void_p, POINTER(Step)]),
    "oai_logits": (c_int, [c_void_p, c_void_p, c_int, c_void_p]),
    "oai_sample": (c_int, [c_void_p, c_void_p, c_int, c_int64, c_int, c_void_p, c_void_p, c_void_p]),
    "oai_read": (c_uint64, [c_void_p, c_void_p, c_int64]),
}


class Native:
    """A pool of `threads` threads and the kernels that run on it. One call at a time; ctypes releases the GIL.

    Calls raise MemoryError where there is no memory for their buffers.
    """

    def __init__(self, path: Path, threads: int) -> None:
        """Raises OSError for a file that is no such library, and where the system refuses the threads."""
        self._handle: int | None = None
        self._library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self.threads = max(1, threads)
        self.instructions: str = self._library.oai_instructions().decode()
        """What the kernels were compiled for, such as "AVX2"."""
        self._handle = self._library.oai_create(self.threads)
        if self._handle is None:
            raise OSError(f"the system refuses {self.threads} threads")

    def close(self) -> None:
        """Ends the threads; nothing may be called afterwards."""
        if self._handle is not None:
            self._library.oai_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

    def strip(self, dtype: torch.dtype) -> int:
        """Elements that an input row must be a multiple of."""
        return int(self._library.oai_strip(dtype.itemsize))

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [rows, in] weight [out, in]^T (+ bias [out]) -> [rows, out]; all of one of DTYPES.

        Raises ValueError where shapes or dtypes are not served.
        """
        (rows, inputs), outputs = x.shape, weight.shape[0]
        if weight.shape[1] != inputs or inputs % self.strip(x.dtype):
            raise ValueError(f"x {tuple(x.shape)} and weight {tuple(weight.shape)} are not served")
        pointers = _pointers(x.dtype, x, weight, bias)
        out = x.new_empty(rows, outputs)
        sizes = rows, outputs, inputs, x.dtype.itemsize
        self._check(self._library.oai_linear(self._handle, *pointers, out.data_ptr(), *sizes))
        return out

    def paged_attention(
        self,
        query: torch.Tensor,  # [tokens, heads, head_dim]
        key_cache: torch.Tensor,  # [blocks, block_size, kv_heads, head_dim]
        value_cache: torch.Tensor,
        metadata: AttentionMetadata,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:  # [tokens, heads, head_dim]
        """Causal attention, keys and values read in place. Raises ValueError for shapes or dtypes not served."""
        _, block_size, kv_heads, head_dim = key_cache.shape
        heads = query.shape[1]
        if heads % kv_heads or head_dim % self.strip(query.dtype) or query.shape[2] != head_dim:
            raise ValueError(f"query {tuple(query.shape)} and cache {tuple(key_cache.shape)} are not served")
        tensors = _pointers(query.dtype, query, key_cache, value_cache)
        rows = _row_tables(metadata)
        out = torch.empty_like(query)
        addresses = *tensors, out.data_ptr(), *(table.data_ptr() for table in rows)
        sizes = len(rows[1]), rows[2].shape[1], block_size, heads, kv_heads, head_dim
        others = scale, window or 0, query.dtype.itemsize
        self._check(self._library.oai_paged_attention(self._handle, *addresses, *sizes, *others))
        return out

    def set_model(self, model: Model) -> None:
        """The model that `forward` and `logits` run; its weights must stay alive as long as this object."""
        self._check(self._library.oai_set_model(self._handle, byref(model)))

    def forward(self, step: Step) -> None:
        self._check(self._library.oai_forward(self._handle, byref(step)))

    def logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> None:
        """hidden [rows, hidden] float32 -> logits [rows, vocab] float32, written in place."""
        self._check(self._library.oai_logits(self._handle, hidden.data_ptr(), len(hidden), logits.data_ptr()))

    def sample(self, logits: torch.Tensor, parameters: bytes) -> tuple[list[int], list[float]]:
        """Token and score of each row of float32 `logits` [rows, vocab], whose columns must lie side by side.

        `parameters`: one SampleRow of sampling.h a row.
        """
        rows, vocab = logits.shape
        tokens, scores = torch.empty(rows, dtype=torch.int32), torch.empty(rows)
        addresses = parameters, tokens.data_ptr(), scores.data_ptr()
        stride = logits.stride(0)
        self._check(self._library.oai_sample(self._handle, logits.data_ptr(), rows, stride, vocab, *addresses))
        return tokens.tolist(), scores.tolist()

    def read(self, memory: torch.Tensor) -> None:
        """Read all of `memory` once with all threads: what a memory-bound kernel cannot beat."""
        self._library.oai_read(self._handle, memory.data_ptr(), memory.nbytes)

    def _check(self, status: int) -> None:
        if status:
            raise MemoryError("no memory for the buffers of a step")


def load_native(threads: int) -> Native | None:
    """The kernels, compiled if need be and checked against torch; None, with one log line, where that fails."""
    if not enabled():
        logger.warning(
            "native CPU kernels are switched off by OAI_SERVER_NATIVE: torch computes, several times slower"
        )
        return None
    try:
        if sys.byteorder != "little":
            raise BuildError("this CPU is big-endian")
        native = Native(library_path(), threads)
        _self_check(native)
    except (BuildError, OSError) as error:
        logger.warning("native CPU kernels are not used, torch computes, several times slower: %s", error)
        return None
    logger.info("native CPU kernels: %s, %d threads", native.instructions, native.threads)
    return native


def _self_check(native: Native) -> None:
    """A miscompiled library must not serve: one small product in each dtype against torch."""
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        x, weight = (torch.randn(rows, 64, generator=generator).to(dtype) for rows in (5, 24))
        exact = x.float() @ weight.float().T
        worst = (native.linear(x, weight).float() - exact).abs().max().item()
        if not worst <= 0.02 * exact.abs().max().item():
            raise BuildError(f"the compiled kernels compute wrongly (off by {worst:.3g} in {dtype})")


def _pointers(dtype: torch.dtype, *tensors: torch.Tensor | None) -> list[int | None]:
    if dtype not in DTYPES:
        raise ValueError(f"{dtype} is not served")
    for tensor in tensors:
        if tensor is not None and (
            tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device.type != "cpu"
        ):
            raise ValueError(
                f"expected a contiguous {dtype} tensor on the CPU, found {tensor.dtype} on {tensor.device}"
            )
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _row_tables(metadata: AttentionMetadata) -> list[torch.Tensor]:
    """query_start, context_len and block_table, kept alive by the caller."""
    tables = (metadata.query_start, metadata.context_len, metadata.block_table)
    return [table.to("cpu", torch.int32).contiguous() for table in tables]
