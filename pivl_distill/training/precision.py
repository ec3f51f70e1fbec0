"""In which precision a network computes, on which device, and what float16 needs beside it.

Half precision is torch's autocast: convolutions and matrix products in 16 bits, weights and sums in
32. bfloat16 has the range of float32 and needs nothing else. float16 has three more bits and less
range: small gradients would vanish, so its loss is scaled (Micikevicius et al., ICLR 2018).
"""

from __future__ import annotations

import torch

from pivl_distill.config import TrainingPrecision

HALF_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def half_dtype(precision: TrainingPrecision, device: torch.device) -> torch.dtype | None:
    """The half precision to compute in; None for float32.

    "auto" is bfloat16 on a CUDA device that has it, and float32 anywhere else. On the meta device,
    which autocast does not know, all is float32.
    """
    if device.type == "meta":
        return None
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return HALF_DTYPES.get(precision)


def loss_scaler(half: torch.dtype | None, device: torch.device) -> torch.amp.GradScaler:
    """A scaler of losses that does nothing except for float16."""
    return torch.amp.GradScaler(device.type, enabled=half == torch.float16)
