"""Mixed precision: the number format of a network on a device, and the loss scaling of float16.

Half precision is torch's autocast: convolutions and matrix products in 16 bits, weights and sums in
32. bfloat16 has the range of float32 and needs no loss scaling. float16 has three more bits of
precision and a smaller range: small gradients would underflow, so the loss is scaled (Micikevicius
et al., ICLR 2018).
"""

from __future__ import annotations

from typing import Any

import torch

from pivl_distill.config import Stage2Settings, TrainingPrecision
from pivl_distill.models.network import ReIDNetwork

HALF_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def half_dtype(precision: TrainingPrecision, device: torch.device) -> torch.dtype | None:
    """Return the half precision to compute in, None for float32.

    "auto" is bfloat16 on a CUDA device that supports it, and float32 elsewhere. The meta device is
    always float32, because autocast does not support it.
    """
    if device.type == "meta":
        return None
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return HALF_DTYPES.get(precision)


class LossScaler(torch.amp.GradScaler):
    """A gradient scaler that starts anew in a run that continues in float16 after another format.

    Such a run has saved an empty state.
    """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state, unless it is empty."""
        if state:
            super().load_state_dict(state)


def loss_scaler(half: torch.dtype | None, device: torch.device) -> LossScaler:
    """Return a gradient scaler that is enabled for float16 only."""
    return LossScaler(device.type, enabled=half == torch.float16)


def configure_precision(network: ReIDNetwork, settings: Stage2Settings) -> None:
    """Set the network's precision and gradient checkpointing from the settings."""
    network.half_precision = half_dtype(settings.precision, next(network.parameters()).device)
    if settings.checkpointing:
        network.enable_gradient_checkpointing()
