"""Scanning files: damage, duplicates and invalid maps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.scan import (
    HEADER_ONLY,
    OTHER_SIZE,
    UNKNOWN_VALUES,
    WRONG_KIND,
    ScannedCrop,
    duplicates,
    scan_files,
    scan_headers,
)
from pivl_distill.data.vocabulary import LIP20


def dataset_of(root: Path, *train: Record) -> ReIDDataset:
    test = (Record(root / "test.jpg", 9, 0),)
    return ReIDDataset("some", root, train, test, test, LIP20)


def test_every_image_is_read_in_order(tmp_path: Path, plant) -> None:
    plant(tmp_path, ["a/1.jpg", "a/2.png", "test.jpg"])
    train = [Record(tmp_path / name, 1, 0) for name in ("a/2.png", "a/1.jpg")]
    scanned = scan_files(dataset_of(tmp_path, *train))
    assert [(crop.split, crop.name) for crop in scanned] == [
        ("train", "a/2.png"),
        ("train", "a/1.jpg"),
        ("query", "test.jpg"),
        ("gallery", "test.jpg"),
    ]
    for crop in scanned:
        assert crop.digest == hashlib.sha256(crop.record.path.read_bytes()).digest()
        assert crop.map_fault is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("keep", [None, 0, 20, 200])
def test_damaged_images_have_no_digest(
    tmp_path: Path, plant, suffix: str, keep: int | None
) -> None:
    plant(tmp_path, [f"broken{suffix}", "test.jpg"])
    path = tmp_path / f"broken{suffix}"
    path.unlink() if keep is None else path.write_bytes(path.read_bytes()[:keep])
    scanned = scan_files(dataset_of(tmp_path, Record(path, 1, 0)))
    assert [crop.digest is None for crop in scanned] == [True, False, False]


def test_each_fault_of_a_map_is_reported(tmp_path: Path, plant) -> None:
    plant(tmp_path, ["image.jpg", "test.jpg", "colour.png"])
    values = np.zeros((16, 8), np.uint8)
    values[0, 0] = 255
    Image.fromarray(values).save(tmp_path / "good.png")
    Image.fromarray(values).save(tmp_path / "grey.jpg")
    Image.fromarray(values.T).save(tmp_path / "turned.png")
    values[1, 1] = 20
    Image.fromarray(values).save(tmp_path / "unknown.png")
    faults = {
        "good.png": None,
        "colour.png": WRONG_KIND,
        "grey.jpg": WRONG_KIND,
        "gone.png": WRONG_KIND,
        "turned.png": OTHER_SIZE,
        "unknown.png": UNKNOWN_VALUES,
    }
    image = tmp_path / "image.jpg"
    train = [Record(image, 1, 0, tmp_path / name) for name in faults]
    scanned = scan_files(dataset_of(tmp_path, *train))
    assert [crop.map_fault for crop in scanned[:-2]] == list(faults.values())


def test_mapped_images_that_exif_turns_are_reported(tmp_path: Path, plant) -> None:
    plant(tmp_path, ["test.jpg"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(tmp_path / "phone.jpg", exif=exif)
    for name, size in (("upright.png", (8, 16)), ("stored.png", (16, 8))):
        Image.new("L", size).save(tmp_path / name)
    train = [
        Record(tmp_path / "phone.jpg", 1, 0, tmp_path / name)
        for name in ("upright.png", "stored.png")
    ]
    scanned = scan_files(dataset_of(tmp_path, *train, Record(tmp_path / "phone.jpg", 1, 0)))
    assert [crop.turned for crop in scanned] == [True, True, False, False, False]
    assert [crop.map_fault for crop in scanned[:3]] == [None, OTHER_SIZE, None]


def test_duplicates_equal_a_comparison_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    crops = [
        ScannedCrop(
            str(number),
            "train",
            Record(Path(), int(rng.integers(3)), 0),
            None if (byte := int(rng.integers(8))) == 0 else bytes([byte]),
        )
        for number in range(24)
    ]

    def same_person(crop: ScannedCrop, other: ScannedCrop) -> bool:
        return crop.record.pid == other.record.pid

    expected = []
    for crop in crops:
        for other in crops:
            same = crop.digest is not None and crop.digest == other.digest
            if same and crop is not other and same_person(crop, other):
                expected.append(f"{crop.name} = {other.name}")
                break
    assert expected
    assert duplicates(crops, crops, same_person) == expected
    known = [crop for crop in crops[:12] if crop.digest in {other.digest for other in crops[12:]}]
    assert len(duplicates(crops[:12], crops[12:])) == sum(crop.digest is not None for crop in known)


def test_headers_tell_damage_at_the_start_and_wrong_maps(tmp_path: Path, plant, capsys) -> None:
    plant(tmp_path, ["good.jpg", "broken.jpg", "colour.png"])
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "late.jpg")
    (tmp_path / "late.jpg").write_bytes((tmp_path / "late.jpg").read_bytes()[:-500])
    Image.fromarray(np.full((16, 8), 77, np.uint8)).save(tmp_path / "map.png")
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "turned.png")
    names = {
        ("good.jpg", "map.png"): (HEADER_ONLY, None),
        ("good.jpg", "turned.png"): (HEADER_ONLY, OTHER_SIZE),
        ("good.jpg", "colour.png"): (HEADER_ONLY, WRONG_KIND),
        ("good.jpg", "gone.png"): (HEADER_ONLY, WRONG_KIND),
        ("late.jpg", None): (HEADER_ONLY, None),
        ("broken.jpg", None): (None, None),
        ("gone.jpg", None): (None, None),
    }
    records = [
        Record(tmp_path / image, 1, 0, tmp_path / label if label else None)
        for image, label in names
    ]
    elsewhere = Record(Path("/nowhere/9.jpg"), 9, 0)
    scanned = scan_headers({"train": records, "query": [elsewhere]}, tmp_path)
    assert [(crop.digest, crop.map_fault) for crop in scanned[:-1]] == list(names.values())
    assert [crop.name for crop in scanned[:-1]] == [image for image, _ in names]
    assert (scanned[-1].name, scanned[-1].split) == ("/nowhere/9.jpg", "query")
    assert capsys.readouterr().err == ""
