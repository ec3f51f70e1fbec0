"""Write the golden crop: a synthetic person, shipped with each export to test it after loading.

The manifest records each file's output for this crop. `pivl_distill.runtime.golden_check` compares
it with the output at load time; this detects swapped channels, a wrong mean, a damaged file or a
runtime that computes something else before the first real crop.
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
    """Write `folder`/golden.png and return the crop, uint8 RGB [H, W, 3].

    PNG is lossless and the crop has the input size, so every reader gets the same values.
    """
    crop = render(person(_SEED, 0, 1), camera(_SEED, 0), _SEED, size_hw).image
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG")
    write_bytes(folder / GOLDEN_CROP_FILE, buffer.getvalue())
    return crop
