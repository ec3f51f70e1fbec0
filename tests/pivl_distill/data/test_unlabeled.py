"""Folders of crops without labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.unlabeled import PID, list_unlabeled
from pivl_distill.errors import PivlError


def test_images_at_any_depth_are_listed_in_order(plant, tmp_path: Path) -> None:
    names = ["b/2.JPG", "a.png", "b/1.jpeg", "b/notes.txt"]
    records = list_unlabeled(str(plant(tmp_path, names)))
    assert [r.path.relative_to(tmp_path).as_posix() for r in records] == [
        "a.png",
        "b/1.jpeg",
        "b/2.JPG",
    ]
    assert {(record.pid, record.camid, record.parsing) for record in records} == {(PID, None, None)}


def test_hidden_files_are_left_out(plant, tmp_path: Path) -> None:
    plant(tmp_path, ["1.jpg"])
    (tmp_path / "._1.jpg").write_bytes(b"left by macOS")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "2.jpg").write_bytes(b"deleted")
    assert [record.path.name for record in list_unlabeled(str(tmp_path))] == ["1.jpg"]


def test_empty_and_missing_folders_raise(plant, tmp_path: Path) -> None:
    with pytest.raises(PivlError, match=r"contains no images \(\.jpg"):
        list_unlabeled(str(plant(tmp_path, ["notes.txt"])))
    with pytest.raises(PivlError, match=r"No folder of unlabelled crops at .*nowhere"):
        list_unlabeled(str(tmp_path / "nowhere"))
    with pytest.raises(PivlError, match="No folder of unlabelled crops"):
        list_unlabeled(str(plant(tmp_path, ["1.jpg"]) / "1.jpg"))


def test_images_of_equal_name_and_size_are_refused(tmp_path: Path) -> None:
    for camera in ("a", "b"):
        (tmp_path / camera).mkdir()
        (tmp_path / camera / "1.png").write_bytes(b"pixels")
    with pytest.raises(PivlError, match=r"a.1\.png and .*b.1\.png have the same name and size"):
        list_unlabeled(str(tmp_path))


def test_all_splits_of_a_data_set_are_listed_without_labels() -> None:
    dataset = load_dataset("synthetic:tiny")
    records = list_unlabeled("synthetic:tiny")
    expected = {record.path for split in dataset.splits.values() for record in split}
    assert [record.path for record in records] == sorted(expected)
    assert {record.pid for record in records} == {PID}
