"""The golden crop is a person of the right size, the same for everyone who reads it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from export.golden_crop import write_golden_crop
from pivl_distill.data.images import read_crop
from pivl_distill.storage.filenames import GOLDEN_CROP_FILE


@pytest.mark.parametrize("size_hw", [(64, 32), (128, 64), (256, 128), (224, 224)])
def test_what_is_read_is_what_was_returned(tmp_path, size_hw):
    crop = write_golden_crop(tmp_path, size_hw)
    assert crop.shape == (*size_hw, 3)
    assert crop.dtype == np.uint8
    assert crop.std() > 20  # somebody is there
    with Image.open(tmp_path / GOLDEN_CROP_FILE) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), crop)
    np.testing.assert_array_equal(read_crop(tmp_path / GOLDEN_CROP_FILE, size_hw), crop)
    np.testing.assert_array_equal(write_golden_crop(tmp_path, size_hw), crop)


def test_swapped_channels_are_another_picture(tmp_path):
    crop = write_golden_crop(tmp_path, (128, 64)).astype(int)
    assert abs(crop - crop[..., ::-1]).mean() > 5
