"""Part maps made more trustworthy before anything learns from them (π-VL §3.3 says nothing of it).

Both work on the map of one crop and turn what they doubt into IGNORE.
"""

from __future__ import annotations

import cv2
import numpy as np

from pivl_distill.data.vocabulary import IGNORE


def drop_small_parts(values: np.ndarray, min_px: int) -> np.ndarray:
    """The map uint8 [H, W] without parts of fewer than `min_px` pixels."""
    pixels = np.bincount(values.ravel(), minlength=256)
    return np.where(pixels[values] < min_px, np.uint8(IGNORE), values)


def keep_largest_person(values: np.ndarray, background: int) -> np.ndarray:
    """The map uint8 [H, W] with the largest connected foreground alone; bystanders are unknown.

    Pixels that touch at a corner are connected; unknown pixels connect nothing.
    """
    foreground = (values != background) & (values != IGNORE)
    _, number, stats, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8))
    sizes = stats[1:, cv2.CC_STAT_AREA]
    if len(sizes) < 2:
        return values
    others = foreground & (number != 1 + sizes.argmax())
    return np.where(others, np.uint8(IGNORE), values)
