"""`torch.compile` of a network's body, by default only where it pays.

Measured on two CPU cores (`docs/speed.md`): compiling a MobileNetV2 ×0.25 takes about a minute and
reduces the time of a step to two thirds. So "auto" compiles long runs on a CPU. Compiled and
uncompiled runs differ in rounding.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import nn

from pivl_distill.distributed import process_group

logger = logging.getLogger(__name__)

LONG_RUN_STEPS = 5000
"""Number of steps from which compiling pays on a CPU, even with small crops."""


def should_compile(setting: bool | Literal["auto"], steps: int, device: torch.device) -> bool:
    """Return whether to compile a run of `steps` steps; "auto" compiles long runs on a CPU."""
    return device.type == "cpu" and steps >= LONG_RUN_STEPS if setting == "auto" else setting


def compile_body(body: nn.Module, device: torch.device) -> None:
    """Compile the forward and backward passes of `body` in place, on their first run.

    Weights and their names do not change. Operations that cannot be compiled run eagerly. If
    compilation is not possible at all, `body` stays uncompiled and a warning is logged.
    """
    if (error := compile_error(device)) is not None:
        logger.warning(
            f"Training without torch.compile: {error}. stage2.compile=false skips the attempt."
        )
        return
    torch._dynamo.config.suppress_errors = True
    body.compile()


def compile_error(device: torch.device) -> str | None:
    """Return the error that stops torch from compiling for this device, or None."""
    if process_group.world_size() > 1:
        return "synchronised batch norm of several processes cannot be compiled"
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # a missing compiler, header or package
        return str(error).strip().splitlines()[0].rstrip(".")
    return None
