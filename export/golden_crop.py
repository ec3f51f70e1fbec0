"""The golden crop: one synthetic person, shipped with each export, whose vector is on record.

Whoever loads the export feeds it this picture first. Swapped channels, another mean, a damaged file
or a runtime that computes something else show at once, before the first real crop.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pivl_distill.data.synthetic.cameras import camera
from pivl_distill.data.synthetic.people import person
from pivl_distill.data.synthetic.render import render
from pivl_distill.storage.filenames import GOLDEN_CROP_FILE
from pivl_distill.storage.files import write_bytes

_SEED = 7


def write_golden_crop(folder: Path, size_hw: tuple[int, int]) -> np.ndarray:
    """Write `folder`/golden.png and return it, uint8 RGB [H, W, 3].

    PNG loses nothing, and the crop needs no resizing: every reader sees the same numbers.
    """
    crop = render(person(_SEED, 0, 1), camera(_SEED, 0), _SEED, size_hw).image
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG")
    write_bytes(folder / GOLDEN_CROP_FILE, buffer.getvalue())
    return crop
