"""Occluded-Duke from DukeMTMC-reID and list files: the right images, written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pivl_distill.data import occluded_duke
from pivl_distill.data.occluded_duke import rebuild_occluded_duke
from pivl_distill.errors import PivlError

DUKE = (
    "bounding_box_train/0001_c2_f1.jpg",
    "bounding_box_train/0001_c3_f2.jpg",
    "query/0005_c1_f3.jpg",
    "bounding_box_test/0005_c2_f4.jpg",
    "bounding_box_test/0005_c4_f5.jpg",
    "bounding_box_test/0006_c5_f6.jpg",
)
# An occluded gallery image becomes a query, and the query joins the gallery.
LISTS = {
    "train.list": ["0001_c2_f1.jpg"],
    "query.list": ["0005_c4_f5.jpg"],
    "gallery.list": ["0005_c1_f3.jpg", "0005_c2_f4.jpg", "0006_c5_f6.jpg"],
}


@pytest.fixture
def duke(tmp_path: Path, plant) -> Path:
    return plant(tmp_path / "dukemtmcreid" / "DukeMTMC-reID", DUKE)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, lines in LISTS.items():
        (folder / name).write_text("".join(f"{line}\r\n" for line in lines))
    return folder


@pytest.mark.parametrize("link", [False, True])
def test_images_follow_the_lists(tmp_path: Path, duke: Path, lists: Path, link: bool) -> None:
    out = tmp_path / "Occluded_Duke"
    dataset = rebuild_occluded_duke(tmp_path, lists, out, link=link)
    assert dataset.name == "occluded_duke"
    made = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert made == {
        "bounding_box_train/0001_c2_f1.jpg",
        "query/0005_c4_f5.jpg",
        "bounding_box_test/0005_c1_f3.jpg",
        "bounding_box_test/0005_c2_f4.jpg",
        "bounding_box_test/0006_c5_f6.jpg",
    }
    moved = duke / "bounding_box_test/0005_c4_f5.jpg"
    assert dataset.query[0].path.read_bytes() == moved.read_bytes()
    assert dataset.query[0].path.samefile(moved) == link
    assert dataset.summary() == {"train": (1, 1, 1), "query": (1, 1, 1), "gallery": (3, 2, 3)}


def test_images_of_the_same_split_are_preferred(tmp_path: Path, duke: Path, lists: Path) -> None:
    own = duke / "query" / "0005_c4_f5.jpg"
    own.write_bytes((duke / "query/0005_c1_f3.jpg").read_bytes())
    dataset = rebuild_occluded_duke(duke, lists, tmp_path / "out")
    assert dataset.query[0].path.read_bytes() == own.read_bytes()


@pytest.mark.parametrize(
    ("name", "line", "sentence"),
    [
        ("query.list", "0009_c1_f9.jpg", r"query\.list names 1 files .*query/0009_c1_f9\.jpg"),
        ("query.list", "../0005_c1_f3.jpg", "not a bare file name"),
    ],
)
def test_wrong_list_leaves_no_files(
    tmp_path: Path, duke: Path, lists: Path, name: str, line: str, sentence: str
) -> None:
    with (lists / name).open("a") as file:
        file.write(line)
    with pytest.raises(PivlError, match=sentence):
        rebuild_occluded_duke(duke, lists, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_empty_lists_and_wrong_folders(tmp_path: Path, duke: Path, lists: Path) -> None:
    with pytest.raises(PivlError, match="exists already"):
        rebuild_occluded_duke(duke, lists, lists)
    with pytest.raises(PivlError, match="No DukeMTMC-reID dataset at"):
        rebuild_occluded_duke(lists, lists, tmp_path / "out")
    (lists / "train.list").write_text("\n")
    with pytest.raises(PivlError, match=r"train\.list contains no images"):
        rebuild_occluded_duke(duke, lists, tmp_path / "out")
    (lists / "train.list").unlink()
    with pytest.raises(PivlError, match=r"no file .*train\.list"):
        rebuild_occluded_duke(duke, lists, tmp_path / "out")


@pytest.mark.parametrize("link", [False, True])
def test_failed_copy_leaves_no_files(
    tmp_path: Path, duke: Path, lists: Path, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(occluded_duke.shutil, "copy2", fail)
    with pytest.raises(PivlError, match=r"Cannot write .*cross-device") as caught:
        rebuild_occluded_duke(duke, lists, tmp_path / "out", link=link)
    assert ("omit --link" in str(caught.value)) == link
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dukemtmcreid", "lists"]
