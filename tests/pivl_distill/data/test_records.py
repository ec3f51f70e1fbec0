"""Records: labels, counts and the fingerprint of a dataset."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pivl_distill.data import records
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import LIP20

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


def test_relative_name_of_an_image_outside_the_root(tmp_path: Path) -> None:
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


def test_fingerprint_is_independent_of_location_and_order(tmp_path: Path) -> None:
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


def test_test_split_has_its_own_fingerprint(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    swapped = replace(dataset, query=dataset.gallery, gallery=dataset.query)
    fewer = replace(dataset, train=dataset.train[1:])
    relabelled = replace(dataset, query=(replace(dataset.query[0], pid=9), *dataset.query[1:]))
    assert dataset.test_fingerprint == fewer.test_fingerprint
    assert dataset.test_fingerprint != swapped.test_fingerprint
    assert dataset.test_fingerprint != relabelled.test_fingerprint
    assert dataset.test_fingerprint != dataset.fingerprint


def with_maps(dataset: ReIDDataset, lengths: tuple[int, ...]) -> ReIDDataset:
    """Maps of the first training images, of these file sizes."""
    train = list(dataset.train)
    for number, length in enumerate(lengths):
        path = dataset.root / f"{number}.png"
        path.write_bytes(b"x" * length)
        train[number] = replace(train[number], parsing=path)
    return replace(dataset, train=tuple(train), vocabulary=LIP20)


def test_fingerprint_of_the_maps(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "here")
    assert dataset.maps_fingerprint is None
    mapped = with_maps(dataset, (5, 6))
    assert mapped.fingerprint == dataset.fingerprint
    there = with_maps(make_dataset(tmp_path / "there"), (5, 6))
    reordered = replace(there, train=there.train[::-1])
    assert reordered.maps_fingerprint == mapped.maps_fingerprint
    others = [
        with_maps(make_dataset(tmp_path / "longer"), (5, 7)),
        with_maps(make_dataset(tmp_path / "more"), (5, 6, 6)),
        with_maps(make_dataset(tmp_path / "exchanged"), (6, 5)),
        replace(mapped, vocabulary=replace(LIP20, name="other")),
    ]
    fingerprints = {other.maps_fingerprint for other in [mapped, *others]}
    assert len(fingerprints) == 5
    assert mapped.metadata == {
        "name": "tiny",
        "images": dataset.fingerprint,
        "maps": mapped.maps_fingerprint,
    }


def test_record_digest_distinguishes_images_independent_of_location(tmp_path: Path) -> None:
    here, there = make_dataset(tmp_path / "here"), make_dataset(tmp_path / "there")
    digests = [record.digest for record in here.train]
    assert digests == [record.digest for record in there.train]
    assert len(set(digests)) == 3
    assert all(-(1 << 63) <= digest < 1 << 63 for digest in digests)
    first = here.train[0]
    assert replace(first, camid=7).digest == first.digest
    assert replace(first, pid=7).digest != first.digest
    first.path.write_bytes(b"another image")
    assert first.digest != digests[0]


def test_names_that_are_not_utf8_have_fingerprints(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    first, *others = dataset.train

    def renamed(name: bytes) -> ReIDDataset:
        path = first.path.with_name(os.fsdecode(name))
        path.write_bytes(first.path.read_bytes())
        return replace(dataset, train=(replace(first, path=path), *others))

    latin, other = renamed(b"caf\xe9.jpg"), renamed(b"caf\xe8.jpg")
    assert latin.fingerprint != other.fingerprint
    assert latin.train[0].digest != other.train[0].digest


def test_fingerprints_of_data_sets_stay() -> None:
    """Banks and runs of earlier versions hold them."""
    digest = hashlib.sha256("ü.jpg\t1\t2\n".encode()).hexdigest()
    assert records._sha256(["ü.jpg\t1\t2\n"]) == digest
