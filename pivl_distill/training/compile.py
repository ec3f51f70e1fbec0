"""`torch.compile`, where it is asked for or pays, and where there is a compiler.

Measured on two CPU cores (`docs/speed.md`): compiling a MobileNetV2 ×0.25 takes about a minute, and
then its step takes two thirds of its time. So a long run on a CPU is compiled by itself. Compiled
and uncompiled runs differ in their rounding.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import nn

from pivl_distill.distributed import process_group

logger = logging.getLogger(__name__)

LONG_RUN_STEPS = 5000
"""Steps from which compiling pays on a CPU, with small crops as well."""


def should_compile(wanted: bool | Literal["auto"], steps: int, device: torch.device) -> bool:
    """Whether to compile for a run of so many steps."""
    return device.type == "cpu" and steps >= LONG_RUN_STEPS if wanted == "auto" else wanted


def compile_body(body: nn.Module, device: torch.device) -> None:
    """Have the forward and backward passes of `body` compiled when they first run, in place.

    Its names and its weights stay as they are. Where nothing can be compiled, that is said and
    nothing happens; what of it cannot be compiled, runs as it is.
    """
    if (obstacle := compile_error(device)) is not None:
        logger.warning(
            f"Training goes on uncompiled: {obstacle}. With stage2.compile false none is tried."
        )
        return
    torch._dynamo.config.suppress_errors = True
    body.compile()


def compile_error(device: torch.device) -> str | None:
    """Why torch cannot compile for this device here, in its own words; None if it can."""
    if process_group.world_size() > 1:
        return "several processes exchange the statistics of batch norms"
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a compiler, its headers or its packages lack
        return str(error).strip().splitlines()[0].rstrip(".")
    return None
