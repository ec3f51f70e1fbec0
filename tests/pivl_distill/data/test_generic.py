"""User-defined layouts: identity folders or file-name patterns, with or without cameras."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.generic import load_folders, load_regex
from pivl_distill.data.records import ReIDDataset
from pivl_distill.errors import PivlError

FOLDERS = (
    "train/0003/c10_a.jpg",
    "train/0003/c2_b.jpeg",
    "train/0003/Thumbs.db",
    "train/12/c2_a.png",
    "train/.cache/c2_a.png",
    "query/7/c2_a.jpg",
    "gallery/7/c10_a.jpg",
    "gallery/-1/c10_b.jpg",
    "gallery/0000/c10_c.jpg",
)
CAMERA = r"^c(?P<cam>\d+)_"


def labels(dataset: ReIDDataset) -> dict[str, list[tuple[int, int | None]]]:
    return {
        split: [(record.pid, record.camid) for record in records]
        for split, records in dataset.splits.items()
    }


def test_folders_with_cameras_in_the_names(tmp_path: Path, plant, reversed_listing: None) -> None:
    dataset = load_folders(plant(tmp_path, FOLDERS), CAMERA)
    assert dataset.name == "folders"
    assert labels(dataset) == {
        "train": [(3, 1), (3, 0), (12, 0)],
        "query": [(7, 0)],
        "gallery": [(0, 1), (7, 1)],
    }


def test_folders_without_cameras(tmp_path: Path, plant) -> None:
    dataset = load_folders(plant(tmp_path, FOLDERS))
    assert not dataset.has_cameras
    assert {camid for split in labels(dataset).values() for _, camid in split} == {None}


def test_folder_errors(tmp_path: Path, plant) -> None:
    plant(tmp_path, FOLDERS)
    with pytest.raises(PivlError, match=r"c10_b\.jpg does not match the pattern"):
        load_folders(tmp_path, r"^c(?P<cam>\d)_")
    with pytest.raises(PivlError, match="looked for the folders train, query, gallery"):
        load_folders(tmp_path / "train" / "12")
    with pytest.raises(PivlError, match="name its parent folder"):
        load_folders(tmp_path / "train")
    (tmp_path / "query" / "7").rename(tmp_path / "query" / "anna")
    with pytest.raises(PivlError, match="anna has the identity 'anna', which is not an integer"):
        load_folders(tmp_path)
    (tmp_path / "query" / "anna").rename(tmp_path / "query" / "-1")
    assert load_folders(tmp_path).query == ()
    plant(tmp_path, ["query/7/a.jpg", "query/loose.jpg"])
    with pytest.raises(PivlError, match=r"loose\.jpg is in no identity's folder"):
        load_dataset(f"folders:{tmp_path}")
    shutil.move(tmp_path / "train", tmp_path / "elsewhere")
    plant(tmp_path, ["train/-1/junk.jpg"])
    with pytest.raises(PivlError, match=r"'train' of .* contains no images"):
        load_folders(tmp_path)


def test_identities_longer_than_64_bits_are_refused_among_others(tmp_path: Path, plant) -> None:
    plant(tmp_path, [*FOLDERS, f"gallery/{10**18}/a.jpg"])
    with pytest.raises(
        PivlError, match=r"has the identity '10+', which is not an integer of at most"
    ):
        load_folders(tmp_path)


@pytest.mark.parametrize(
    "folders", [("train", "query", "gallery"), ("bounding_box_train", "query", "bounding_box_test")]
)
def test_file_names_that_match_a_pattern(tmp_path: Path, plant, folders: tuple[str, ...]) -> None:
    train, query, gallery = folders
    root = tmp_path / "cam9-p99"
    plant(root, [f"{train}/hall-p003.jpg", f"{train}/gate-p012.jpg", f"{train}/Thumbs.db"])
    plant(root, [f"{query}/hall-p7.jpg", f"{gallery}/yard-p7.jpg", f"{gallery}/hall-p-1.jpg"])
    dataset = load_regex(root, r"(?P<cam>[a-z]+)-p(?P<pid>-?\d+)")
    assert dataset.name == "regex"
    # Cameras by name: gate, hall, yard.
    assert labels(dataset) == {"train": [(12, 0), (3, 1)], "query": [(7, 1)], "gallery": [(7, 2)]}
    assert not load_regex(root, r"-p(?P<pid>-?\d+)").has_cameras


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("", r"must contain the named group \(\?P<pid>"),
        (r"(?P<cam>\d+)", r"must contain the named group \(\?P<pid>"),
        (r"(?P<pid>\d+)_(?P<camera>\d+)", "did you mean 'cam'"),
        (r"(?P<pid>\d+", "is not a regular expression"),
        (r"(?P<pid>\w+)_", "which is not an integer of at most 18 digits"),
        (r"(?P<pid>p\d+)", "does not match the pattern"),
        (r"_(?P<pid>\d)|(?P<cam>a)", "does not match the pattern"),
    ],
)
def test_pattern_errors(tmp_path: Path, plant, pattern: str, sentence: str) -> None:
    plant(tmp_path, [f"{split}/a_1.jpg" for split in ("train", "query", "gallery")])
    with pytest.raises(PivlError, match=sentence):
        load_regex(tmp_path, pattern)


def test_pattern_for_folders_must_not_capture_identities(tmp_path: Path, plant) -> None:
    with pytest.raises(PivlError, match="Unknown group"):
        load_folders(plant(tmp_path, FOLDERS), r"(?P<cam>\d+)_(?P<pid>\d+)")
