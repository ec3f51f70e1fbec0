"""Batches of decoded crops, taken out of a store and brought to the device that trains.

On a GPU the whole store moves there once if it fits into a share of the free memory; a batch is
then picked on the device. Otherwise batches are picked in main memory, or in the file that the
store is mapped from, and copied while the device works. The host never waits for the device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RESIDENT_SHARE = 0.25
"""Of a GPU's free memory, what crops or maps may each take for good."""


class Pixels:
    """uint8 [N, ...], of which batches are taken on a device."""

    def __init__(self, values: np.ndarray, device: torch.device) -> None:
        self.device = device
        self.values = torch.from_numpy(values)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if values.nbytes <= RESIDENT_SHARE * free:
                self.values = self.values.to(device)

    def take(self, batch: np.ndarray) -> Tensor:
        """A copy of the rows `batch` int64 [B]: uint8 [B, ...], on the device."""
        rows = to_device(batch, self.values.device)
        if self.values.device == self.device:
            return self.values.index_select(0, rows)
        shape = (len(batch), *self.values.shape[1:])
        staged = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return torch.index_select(self.values, 0, rows, out=staged).to(
            self.device, non_blocking=True
        )


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """The array on a device; the host does not wait until it is there."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
