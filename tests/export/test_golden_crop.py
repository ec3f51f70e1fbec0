"""The golden crop shows a person at the right size and is reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from export.golden_crop import write_golden_crop
from pivl_distill.data.images import read_crop
from pivl_distill.storage.filenames import GOLDEN_CROP_FILE


@pytest.mark.parametrize("size_hw", [(64, 32), (128, 64), (256, 128), (224, 224)])
def test_written_crop_is_read_back_unchanged(tmp_path, size_hw):
    crop = write_golden_crop(tmp_path, size_hw)
    assert crop.shape == (*size_hw, 3)
    assert crop.dtype == np.uint8
    assert crop.std() > 20  # not an empty image
    with Image.open(tmp_path / GOLDEN_CROP_FILE) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), crop)
    np.testing.assert_array_equal(read_crop(tmp_path / GOLDEN_CROP_FILE, size_hw), crop)
    np.testing.assert_array_equal(write_golden_crop(tmp_path, size_hw), crop)


def test_golden_crop_distinguishes_rgb_from_bgr(tmp_path):
    crop = write_golden_crop(tmp_path, (128, 64)).astype(int)
    assert abs(crop - crop[..., ::-1]).mean() > 5
