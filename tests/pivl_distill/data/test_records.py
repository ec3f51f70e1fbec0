"""Records: labels, counts and the fingerprint of a dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pivl_distill.data.records import Record, ReIDDataset

SPLITS = ("train", "query", "gallery")


def make_dataset(root: Path) -> ReIDDataset:
    def record(split: str, pid: int, camid: int) -> Record:
        path = root / split / f"{pid:04}_c{camid + 1}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (10 + pid))
        return Record(path, pid, camid)

    return ReIDDataset(
        "tiny",
        root,
        train=(record("train", 9, 0), record("train", 2, 1), record("train", 2, 0)),
        query=(record("query", 5, 3),),
        gallery=(record("gallery", 5, 0), record("gallery", 0, 1)),
    )


def test_labels_and_counts(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    assert dataset.train_pids == (2, 9)
    assert dataset.cameras == 4
    assert dataset.summary() == {"train": (3, 2, 2), "query": (1, 1, 1), "gallery": (2, 2, 2)}


def test_cameras_may_be_unknown(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    assert dataset.has_cameras
    without = {name: tuple(replace(r, camid=None) for r in dataset.splits[name]) for name in SPLITS}
    unknown = replace(dataset, **without)
    assert not unknown.has_cameras
    assert unknown.cameras == 0
    assert unknown.summary() == {"train": (3, 2, 0), "query": (1, 1, 0), "gallery": (2, 2, 0)}
    assert not replace(dataset, query=without["query"]).has_cameras


def test_an_image_outside_the_root_is_called_by_its_name(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "here")
    outside = tmp_path / "elsewhere" / "1.jpg"
    assert dataset.relative(outside) == Path("1.jpg")
    assert dataset.relative(dataset.train[0].path) == Path("train", dataset.train[0].path.name)
    outside.parent.mkdir()
    outside.write_bytes(b"x")
    moved = replace(dataset, train=(replace(dataset.train[0], path=outside),))
    assert len(moved.fingerprint) == 64


def test_a_dataset_with_described_people_is_synthetic(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    assert not dataset.synthetic
    assert replace(dataset, people={2: {"hat": "red", "bag": None}}).synthetic


def test_fingerprint_depends_on_neither_place_nor_order(tmp_path: Path) -> None:
    here, there = make_dataset(tmp_path / "here"), make_dataset(tmp_path / "there")
    reordered = replace(there, train=there.train[::-1])
    assert here.fingerprint == reordered.fingerprint
    assert len(bytes.fromhex(here.fingerprint)) == 32


@pytest.mark.parametrize("change", [{"pid": 3}, {"camid": 5}])
def test_fingerprint_depends_on_the_labels(tmp_path: Path, change: dict[str, int]) -> None:
    dataset = make_dataset(tmp_path)
    changed = (replace(dataset.train[0], **change), *dataset.train[1:])
    assert replace(dataset, train=changed).fingerprint != dataset.fingerprint


def test_fingerprint_depends_on_names_and_sizes(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    before = dataset.fingerprint
    first = dataset.train[0].path
    renamed = replace(dataset.train[0], path=first.rename(first.with_name("other.jpg")))
    assert replace(dataset, train=(renamed, *dataset.train[1:])).fingerprint != before
    dataset.train[1].path.write_bytes(b"longer than before")
    renamed.path.rename(first)
    assert replace(dataset).fingerprint != before
