"""The runtime's ONNX sessions on torch tensors, as the checks of an export need them."""

from __future__ import annotations

import onnxruntime as ort
import torch
from torch import Tensor

from pivl_distill.errors import PivlError


def run_session(session: ort.InferenceSession, *inputs: Tensor) -> Tensor:
    """Images as the graph takes them, and cameras int64 [B] if it takes them → features float32
    [B, F].

    Raises PivlError if ONNX Runtime gives up.
    """
    return run_all_outputs(session, *inputs)[0]


def run_all_outputs(session: ort.InferenceSession, *inputs: Tensor) -> list[Tensor]:
    """`run_session` for all outputs of a graph."""
    feed = {
        info.name: value.cpu().contiguous().numpy()
        for info, value in zip(session.get_inputs(), inputs, strict=True)
    }
    try:
        return [torch.from_numpy(output) for output in session.run(None, feed)]
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise PivlError(f"ONNX Runtime cannot run the graph: {error}") from error
