"""The runtime's ONNX sessions on torch tensors, as the checks of an export need them."""

from __future__ import annotations

import onnxruntime as ort
import torch
from torch import Tensor

from pivl_distill.runtime.session import CPU, check_runtime, open_session

__all__ = ["CPU", "check_runtime", "open_session", "run"]


def run(session: ort.InferenceSession, *inputs: Tensor) -> Tensor:
    """Normalised images float32 [B, 3, H, W], and cameras int64 [B] if the graph takes them →
    features float32 [B, F]."""
    feed = {
        info.name: value.cpu().contiguous().numpy()
        for info, value in zip(session.get_inputs(), inputs, strict=True)
    }
    (features,) = session.run(None, feed)
    return torch.from_numpy(features)
