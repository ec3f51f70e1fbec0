"""Batches of per-crop arrays, copied to the training device.

On a GPU, the whole array moves there once if it fits into a share of the free memory; batches are
then indexed on the device. Otherwise batches are gathered in host memory (or in the memory-mapped
file) and copied asynchronously. The host never synchronises with the device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RESIDENT_SHARE = 0.25
"""Share of a GPU's free memory that one resident array may take."""


class DeviceArray:
    """An array [N, ...] with one row per crop; batches of rows are returned on a device."""

    def __init__(self, values: np.ndarray, device: torch.device) -> None:
        self.device = device
        self.values = torch.from_numpy(values)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if values.nbytes <= RESIDENT_SHARE * free:
                self.values = self.values.to(device)

    def take(self, batch: np.ndarray) -> Tensor:
        """Return a copy of the rows `batch` int64 [B] as [B, ...] on the device."""
        rows = to_device(batch, self.values.device)
        if self.values.device == self.device:
            return self.values.index_select(0, rows)
        shape, pinned = (len(batch), *self.values.shape[1:]), self.device.type == "cuda"
        staged = torch.empty(shape, dtype=self.values.dtype, device="cpu", pin_memory=pinned)
        return torch.index_select(self.values, 0, rows, out=staged).to(
            self.device, non_blocking=True
        )


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy host values to a device asynchronously."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
