"""`torch.compile`, where it is asked for and there is a compiler."""

from __future__ import annotations

import torch
from torch import nn

from pivl_distill.console import note


def compile_body(body: nn.Module, device: torch.device) -> None:
    """Have the forward and backward passes of `body` compiled when they first run, in place.

    Its names and its weights stay as they are. Where nothing can be compiled, that is said and
    nothing happens.
    """
    if (missing := _obstacle(device)) is not None:
        note(f"Training goes on uncompiled: {missing}. Set stage2.compile to false to be silent.")
        return
    body.compile()


def _obstacle(device: torch.device) -> str | None:
    """Why torch cannot compile for this device here, in its own words; None if it can."""
    if device.type == "meta":
        return "there is nothing to compute on the meta device"
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a compiler, its headers or its packages lack
        return str(error).strip().splitlines()[0].rstrip(".")
    return None
