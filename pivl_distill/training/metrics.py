"""Training metrics: averages over one epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MetricAverages:
    """Running means of one epoch's loss terms and training accuracy."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Reset at the start of an epoch."""
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the values of one step, without synchronising with the device."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach()
        self.count += 1

    def mean(self) -> dict[str, float]:
        """Return the means over the steps added so far, rounded to five decimals."""
        return {name: round((total / self.count).item(), 5) for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the running sums, to resume an interrupted epoch."""
        return {"sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore running sums from `state_dict`."""
        self.sums, self.count = state["sums"], state["count"]
