"""Small tensors between host and device, through page-locked memory: neither side waits for the other."""

from __future__ import annotations

import numpy as np
import torch


def to_device(values: object, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers, lists of them, or an array, which has that type already."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """To be read once the device has come as far."""
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
