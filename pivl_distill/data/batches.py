"""Batches of what is kept for every crop, brought to the device that trains.

On a GPU a whole array moves there once if it fits into a share of the free memory; a batch is then
picked on the device. Otherwise batches are picked in main memory, or in the file that the array is
mapped from, and copied while the device works. The host never waits for the device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RESIDENT_SHARE = 0.25
"""Of a GPU's free memory, what one array may take for good."""


class DeviceArray:
    """An array [N, ...] with a row for every crop, of which batches are taken on a device."""

    def __init__(self, values: np.ndarray, device: torch.device) -> None:
        self.device = device
        self.values = torch.from_numpy(values)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if values.nbytes <= RESIDENT_SHARE * free:
                self.values = self.values.to(device)

    def take(self, batch: np.ndarray) -> Tensor:
        """A copy of the rows `batch` int64 [B]: [B, ...], on the device."""
        rows = to_device(batch, self.values.device)
        if self.values.device == self.device:
            return self.values.index_select(0, rows)
        shape, pinned = (len(batch), *self.values.shape[1:]), self.device.type == "cuda"
        staged = torch.empty(shape, dtype=self.values.dtype, device="cpu", pin_memory=pinned)
        return torch.index_select(self.values, 0, rows, out=staged).to(
            self.device, non_blocking=True
        )


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """What the host has, on a device; the host does not wait until it is there."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
