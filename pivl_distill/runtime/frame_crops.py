"""Pictures as arrays: what is none is refused with a sentence, and boxes are cut out of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pivl_distill.errors import PivlError


def check_image(picture: np.ndarray, what: str) -> None:
    """PivlError unless `picture` is uint8 RGB [H, W, 3] with a pixel; `what` it is called."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        kind = getattr(picture, "dtype", type(picture).__name__)
        raise PivlError(f"{what} must be a uint8 array of 0..255, not {kind}.")
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise PivlError(f"{what} must be RGB [H, W, 3], not of shape {list(picture.shape)}.")


def crop_box(frame: np.ndarray, box: Sequence[float] | np.ndarray, number: int) -> np.ndarray:
    """The pixels [h, w, 3] of a frame that a box, left, top, right, bottom, touches.

    Raises PivlError, naming the box by its `number`, if it is none or touches no pixel.
    """
    height, width, _ = frame.shape
    if np.ndim(box) != 1 or len(box) != 4 or not np.isfinite(box).all():
        raise PivlError(
            f"Box {number} must be left, top, right, bottom in pixels, not {box}; a single box goes"
            " in a list: [box]."
        )
    left, top = (max(math.floor(value), 0) for value in box[:2])
    right, bottom = math.ceil(box[2]), math.ceil(box[3])
    cut = frame[top : max(bottom, 0), left : max(right, 0)]
    if not cut.size:
        raise PivlError(
            f"Box {number} ({', '.join(f'{value:g}' for value in box)}) has no pixel in the frame"
            f" of {width}x{height}; drop it before embedding."
        )
    return cut
