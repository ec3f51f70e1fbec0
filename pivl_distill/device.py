"""The device to compute on."""

from __future__ import annotations

import torch

from pivl_distill.config import DeviceChoice
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError


def pick_device(wanted: DeviceChoice) -> torch.device:
    """The device to run on; PivlError when CUDA is asked for and absent."""
    if wanted == "meta":
        raise PivlError("The device 'meta' holds no numbers; it is for --dry-run alone.")
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise PivlError("No CUDA device is available here; set device to 'auto' or 'cpu'.")
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    if process_group.local_rank() and process_group.local_rank() >= (
        devices := torch.cuda.device_count()
    ):
        raise PivlError(
            f"This machine has {devices} CUDA devices and more processes; start as many with"
            " torchrun --nproc-per-node, or set device to 'cpu'."
        )
    return torch.device("cuda")
