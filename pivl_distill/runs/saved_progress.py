"""What the file of a run's progress says about it, besides tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_TYPES = {
    "stage": str,
    "steps": int,
    "step_rng": dict,
    "seconds": dict,
    "metrics": str,
    "parts": dict,
}


@dataclass(frozen=True)
class SavedProgress:
    """The metadata of `progress.safetensors`."""

    stage: str
    steps: int
    """Number of completed steps of the stage."""
    step_rng: dict[str, Any]
    """State of the sampler's random generator after the last of them."""
    seconds: dict[str, float]
    metrics: str
    parts: dict[str, Any]
    """State of each part, as `pack_state` returns it."""

    def check(self) -> None:
        """Raise an exception about damage if a value cannot be one that was saved."""
        for name, kind in _TYPES.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"'{name}' is of another type")
        if self.steps < 0 or not all(isinstance(s, float | int) for s in self.seconds.values()):
            raise ValueError("its steps or seconds are no numbers")
        np.random.default_rng().bit_generator.state = self.step_rng
