"""Run ONNX files and OpenVINO IRs on torch tensors, for verification and calibration.

`pivl_distill.runtime.open_artifact` opens them; it does not depend on torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.runtime.open_artifact import Session


def run_session(session: Session, *inputs: Tensor) -> Tensor:
    """Return features float32 [B, F] of the graph's inputs.

    The inputs are images [B, 3, H, W] (uint8 [B, H, W, 3] if preprocessing is in the graph) and,
    for a network with cameras, camera ids int64 [B]. Raises PivlError if it cannot run.
    """
    return run_all_outputs(session, *inputs)[0]


def run_all_outputs(session: Session, *inputs: Tensor) -> list[Tensor]:
    """Return all outputs of the graph; inputs and errors as for `run_session`."""
    feed = {
        info.name: value.cpu().contiguous().numpy()
        for info, value in zip(session.get_inputs(), inputs, strict=True)
    }
    try:
        return [torch.from_numpy(output) for output in session.run(None, feed)]
    except Exception as error:  # those of the libraries share no public base class
        raise PivlError(f"The graph cannot be run: {error}") from error
