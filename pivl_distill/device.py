"""Choice of the device to compute on, and the name of the processor."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

from pivl_distill.config import DeviceChoice
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError


def pick_device(setting: DeviceChoice) -> torch.device:
    """Return the device for a setting: "auto" prefers CUDA; each process uses its own GPU.

    Raises PivlError if CUDA is requested but missing, or if a process has no GPU of its own.
    """
    if setting == "meta":
        raise PivlError("The device 'meta' has shapes but no data; use it with --dry-run only.")
    available = torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise PivlError("No CUDA device is available; set device to 'auto' or 'cpu'.")
    if setting == "cpu" or not available:
        return torch.device("cpu")
    if process_group.local_rank() and process_group.local_rank() >= (
        devices := torch.cuda.device_count()
    ):
        raise PivlError(
            f"This machine has {devices} CUDA devices but more processes; start {devices} with"
            f" torchrun --nproc-per-node={devices}, or set device to 'cpu'."
        )
    return torch.device("cuda")


def processor_name() -> str:
    """Return the model of this machine's processor, as Linux names it, or as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    about = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.+)", about)
    return model[1] if model else platform.processor()
