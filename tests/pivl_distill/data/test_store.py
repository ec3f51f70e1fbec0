"""The crop store: pixels, maps and labels in the order of the records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.config import DataSettings
from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore, load_training
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.errors import PivlError


def make_records(folder: Path, count: int = 12) -> list[Record]:
    """Plain crops of colour (10·n, 0, 255 − 10·n); even ones have a map of class n."""
    records = []
    for number in range(count):
        image, parsing = folder / f"{number}.png", folder / f"{number}_map.png"
        Image.new("RGB", (8, 16), (10 * number, 0, 255 - 10 * number)).save(image)
        if number % 2 == 0:
            Image.new("L", (8, 16), number).save(parsing)
        has_map = parsing if number % 2 == 0 else None
        records.append(Record(image, 100 + number, number % 3, has_map))
    return records


def test_everything_keeps_the_order_of_the_records(tmp_path: Path) -> None:
    store = CropStore.load(make_records(tmp_path), (6, 4), LIP20)
    numbers = np.arange(12)
    assert len(store) == 12
    assert store.crops.shape == (12, 6, 4, 3)
    assert store.maps is not None
    colours = np.stack([10 * numbers, 0 * numbers, 255 - 10 * numbers], axis=1)
    np.testing.assert_array_equal(store.crops[:, 5, 3], colours)
    np.testing.assert_array_equal(store.maps[:, 0, 0], np.where(numbers % 2, IGNORE, numbers))
    np.testing.assert_array_equal(store.pids, 100 + numbers)
    np.testing.assert_array_equal(store.camids, numbers % 3)
    assert store.pids.dtype == store.camids.dtype == np.int64
    assert store.missing_maps == 6


def test_maps_are_cleaned_as_the_settings_ask(tmp_path: Path) -> None:
    values = np.zeros((16, 8), np.uint8)
    values[:, 0], values[2:14, 2:6], values[15, 7] = 4, 5, 6
    Image.new("RGB", (8, 16)).save(tmp_path / "crop.png")
    Image.fromarray(values).save(tmp_path / "map.png")
    record = Record(tmp_path / "crop.png", 1, 0, tmp_path / "map.png")

    def seen(**settings: object) -> set[int]:
        chosen = DataSettings(size_hw=(16, 8), **settings)
        store = load_training([record], chosen, LIP20)
        assert store.maps is not None
        return set(np.unique(store.maps).tolist())

    assert seen() == {0, 4, 5, 6}
    assert seen(min_part_px=2) == {0, 4, 5, IGNORE}
    assert seen(largest_person=True) == {0, 5, IGNORE}
    assert load_training([record], DataSettings(min_part_px=2)).maps is None


def test_without_a_vocabulary_there_are_no_maps(tmp_path: Path) -> None:
    store = CropStore.load(make_records(tmp_path), (6, 4))
    assert store.maps is None
    assert store.missing_maps == 0


def test_one_unknown_camera_leaves_none(tmp_path: Path) -> None:
    records = make_records(tmp_path)
    records[3] = replace(records[3], camid=None)
    assert CropStore.load(records, (6, 4)).camids is None


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    records = make_records(tmp_path)
    records[7].path.unlink()
    if content is not None:
        records[7].path.write_bytes(content)
    with pytest.raises(PivlError, match=r"7\.png"):
        CropStore.load(records, (6, 4))


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    records = make_records(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(records[0].path)
    records[0].path.write_bytes(records[0].path.read_bytes()[:5000])
    with pytest.raises(PivlError, match=r"0\.png"):
        CropStore.load(records, (6, 4))
