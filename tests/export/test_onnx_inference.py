"""The runtime's sessions take and return torch tensors."""

from __future__ import annotations

import torch

from export.onnx_inference import run_session
from pivl_distill.runtime.onnx_session import open_session


def test_session_takes_and_returns_torch_tensors(mobilenet):
    model, path = mobilenet
    features = run_session(open_session(path, threads=1), torch.zeros(2, 3, *model.size_hw))
    assert features.shape == (2, 1280)
    assert features.dtype == torch.float32
