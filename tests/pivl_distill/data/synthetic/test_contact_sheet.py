"""The contact sheet shows crops and coloured maps of a dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.synthetic.contact_sheet import contact_sheet
from pivl_distill.data.synthetic.dataset import write_dataset
from pivl_distill.data.synthetic.tiers import TIERS
from pivl_distill.errors import PivlError


def test_sheet_has_a_row_per_person_and_a_pair_per_camera(tmp_path: Path) -> None:
    tier = replace(TIERS["tiny"], train_pids=4, test_pids=2)
    write_dataset(tmp_path / "tree", tier, seed=0, workers=1)
    contact_sheet(tmp_path / "tree", tmp_path / "sheet.png", people=3, zoom=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (tier.cameras * (2 * 64 + 3), 3 * (128 + 3))
        pixels = np.asarray(sheet)
    first = sorted((tmp_path / "tree" / "bounding_box_train").glob("0001_c1*.jpg"))[0]
    with Image.open(first) as crop:
        np.testing.assert_array_equal(pixels[:128, :64], np.asarray(crop))
    assert (pixels[:128, 64:128] == 0).all(axis=2).any()  # the map's background is black


def test_folder_without_crops_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PivlError, match="contains no crops"):
        contact_sheet(tmp_path, tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []
