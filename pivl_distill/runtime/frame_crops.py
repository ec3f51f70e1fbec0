"""Check image arrays, and cut boxes out of video frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.storage.limits import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE


def check_image(image: np.ndarray, name: str) -> None:
    """Raise PivlError, with the image's `name`, unless it is uint8 [H, W, 3] and not empty."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise PivlError(f"{name} must be a uint8 array of 0..255, not {kind}.")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise PivlError(f"{name} must be RGB [H, W, 3], not of shape {list(image.shape)}.")


def check_crop(crop: np.ndarray, name: str) -> None:
    """Raise PivlError unless the crop is an image by `check_image` and not absurdly large."""
    check_image(crop, name)
    height, width, _ = crop.shape
    if height * width > MAX_IMAGE_PIXELS or max(height, width) > MAX_IMAGE_SIDE:
        raise PivlError(
            f"{name} has {width}×{height} pixels; a crop has at most {MAX_IMAGE_PIXELS:,} pixels"
            f" and {MAX_IMAGE_SIDE:,} along a side. Cut it, or scale it down."
        )


def crop_box(frame: np.ndarray, box: Sequence[float] | np.ndarray, number: int) -> np.ndarray:
    """Return the pixels [h, w, 3] of a frame [H, W, 3] that a box touches; a view, not a copy.

    `box` is (left, top, right, bottom) in pixels, right and bottom exclusive, and is clipped to the
    frame. Raises PivlError, with the box's `number`, if it is malformed or outside the frame.
    """
    height, width, _ = frame.shape
    if np.ndim(box) != 1 or len(box) != 4 or not np.isfinite(box).all():
        raise PivlError(
            f"Box {number} must be left, top, right, bottom in pixels, not {box}; pass a single box"
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
