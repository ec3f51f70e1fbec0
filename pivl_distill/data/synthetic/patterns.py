"""Shirt patterns: masks of the second colour, aligned to the body."""

from __future__ import annotations

import numpy as np

from pivl_distill.data.synthetic.canvas import Canvas
from pivl_distill.data.synthetic.skeleton import Skeleton

_PERIOD = 0.052
"""Distance between stripes in body heights."""


def pattern(name: str, canvas: Canvas, bones: Skeleton) -> np.ndarray:
    """Return a boolean mask of the accent colour of pattern `name`; broadcasts to the canvas."""
    fine = canvas.supersampling
    height, width = canvas.size_hw
    period = _PERIOD * bones.height_px * fine
    rows = (np.arange(height * fine) - bones.chest.at.imag * fine)[:, None] / period % 1
    columns = (np.arange(width * fine) - bones.chest.at.real * fine)[None] / period % 1
    if name == "hstripe":
        return rows < 0.5
    if name == "vstripe":
        return columns < 0.5
    if name == "plaid":
        return (rows < 0.3) | (columns < 0.3)
    if name == "dots":
        return (rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.09
    return np.zeros((1, 1), bool)
