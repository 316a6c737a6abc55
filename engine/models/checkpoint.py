"""A folder of safetensors files, read defensively: the names in it come from whoever made the checkpoint."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import ModelLoadError
from engine.models.fields import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_INDEX_BYTES = 64 << 20
PLAIN_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class Checkpoint(contextlib.AbstractContextManager["Checkpoint"]):
    """Open files of one checkpoint; tensors are read one at a time. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self._shard_of: dict[str, str] = {}
        self._main = folder / (INDEX if (folder / INDEX).exists() else SINGLE)
        try:
            self._open_all()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()
        self._stack.close()

    def fail(self, message: str, name: str | None = None) -> NoReturn:
        path = self.folder / self._shard_of[name] if name in self._shard_of else self._main
        raise ModelLoadError(f"{path}: {message}")

    def names(self) -> set[str]:
        return set(self._shard_of)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype a tensor is stored in. Raises ModelLoadError for quantized storage."""
        stored = self._files[self._shard_of[name]].get_slice(name).get_dtype()
        if stored not in PLAIN_DTYPES:
            self.fail(f"{name} is stored as {stored}, supported: {', '.join(PLAIN_DTYPES)}", name)
        return PLAIN_DTYPES[stored]

    def copy_into(self, name: str, target: torch.Tensor) -> None:
        """Copy a tensor, converting its dtype and device. Raises ModelLoadError for another shape."""
        self.dtype(name)
        file = self._files[self._shard_of[name]]
        shape = tuple(file.get_slice(name).get_shape())
        if shape != tuple(target.shape):
            self.fail(f"{name} has shape {list(shape)}, config.json asks for {list(target.shape)}", name)
        target.copy_(file.get_tensor(name))

    def _open_all(self) -> None:
        weight_map = self._read_index() if self._main.name == INDEX else None
        for shard in sorted(set(weight_map.values())) if weight_map is not None else [SINGLE]:
            for name in self._open(shard):
                if weight_map is not None and weight_map.get(name) != shard:
                    continue  # the index decides which copy counts
                self._shard_of[name] = shard
        if weight_map is not None and (missing := sorted(set(weight_map) - set(self._shard_of))):
            raise ModelLoadError(f"{self.folder / weight_map[missing[0]]}: {missing[0]} is missing")

    def _read_index(self) -> dict[str, str]:
        weight_map = read_json(self._main, MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelLoadError(f"{self._main}: weight_map is missing or not an object")
        for shard in weight_map.values():
            if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise ModelLoadError(f"{self._main}: {shard!r:.80} is not the name of a safetensors file")
        return weight_map

    def _open(self, shard: str) -> list[str]:
        path = self.folder / shard
        if not path.exists():
            raise ModelLoadError(f"{path}: no such file{self._pickle_hint()}")
        check_inside(path, self.folder)
        try:
            self._files[shard] = file = self._stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelLoadError(f"{path}: damaged or not a safetensors file: {error}") from error
        return list(file.keys())

    def _pickle_hint(self) -> str:
        pickles = sorted(p.name for p in self.folder.glob("*.bin")) + sorted(p.name for p in self.folder.glob("*.pt"))
        if not pickles:
            return "; supported: safetensors"
        return f"; {pickles[0]} is a pickle, which can run code when loaded: convert the checkpoint to safetensors"


def check_inside(path: Path, folder: Path) -> None:
    """Refuse links that lead out of the checkpoint, but for the hub cache's own (snapshots/<rev>/x -> blobs/y)."""
    real, home = path.resolve(), folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(root) for root in allowed):
        raise ModelLoadError(f"{path}: a link that leads out of the model's folder (to {real})")


def stored_dtype(folder: str | Path, name: str) -> torch.dtype:
    """The dtype of one tensor, for checkpoints whose config.json does not say."""
    with Checkpoint(Path(folder)) as checkpoint:
        if name not in checkpoint.names():
            checkpoint.fail(f"{name} is missing")
        return checkpoint.dtype(name)
