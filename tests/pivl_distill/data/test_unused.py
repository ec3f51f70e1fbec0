"""Everything in the folders of a data set is used, or reported with its reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import end
from pivl_distill import console
from pivl_distill.data.datasets import KINDS, load_dataset
from pivl_distill.data.listing import find_images
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.searched import BY_PROTOCOL, MISNAMED, Searched
from pivl_distill.data.unused import (
    BESIDE,
    DEEPER,
    LEFT_BY_SYSTEMS,
    LINKED,
    NO_IMAGES,
    NO_PERSON_LEFT,
    OTHER_FORMATS,
    UNLISTED,
    check_unused,
    find_unused,
    log_unused,
)
from pivl_distill.errors import PivlError

MARKET = ("bounding_box_train", "query", "bounding_box_test")
PATTERN = r"?pattern=^(?P<pid>-?\d+)_c(?P<cam>\d+)"


def plant_market(root: Path, plant: Callable, kind: str, options: str = "") -> str:
    names = [f"{MARKET[0]}/000{pid}_c{cam}.jpg" for pid in (1, 2) for cam in (1, 2)]
    plant(root, [*names, "query/0003_c1.JPG", "bounding_box_test/0003_c2.webp"])
    plant(root, ["bounding_box_test/-1_c2.tif"])
    return f"{kind}:{root}{options}"


def plant_folders(root: Path, plant: Callable) -> str:
    names = [f"train/000{pid}/{n}.jpg" for pid in (1, 2) for n in (1, 2)]
    plant(root, [*names, "query/0003/a.bmp", "gallery/0003/b.jpeg", "gallery/-1/c.tiff"])
    return f"folders:{root}"


def plant_msmt17(root: Path, plant: Callable) -> str:
    lists = {"train": ["0000/0000_000_01_a.jpg", "0001/0001_000_02_a.jpg"]}
    lists |= {"val": ["0000/0000_001_02_a.jpg"], "query": ["0000/0000_000_01_a.jpg"]}
    lists["gallery"] = ["0000/0000_001_02_a.jpg"]
    for name, images in lists.items():
        folder = "train" if name in ("train", "val") else "test"
        plant(root / folder, images)
        lines = "".join(f"{image} {image[:4].lstrip('0') or 0}\n" for image in images)
        (root / f"list_{name}.txt").write_text(lines)
    return f"msmt17:{root}?val=no"


def plant_manifest(root: Path, plant: Callable) -> str:
    rows = {
        "a/1.jpg": "1,train",
        "a/2.jpg": "2,train",
        "a/3.jpg": "3,query",
        "a/4.png": "3,gallery",
    }
    rows |= {"a/5.jpg": "-1,gallery"}
    plant(root, rows)
    lines = [f"{path},{row}" for path, row in rows.items()]
    (root / "crops.csv").write_text("\n".join(["path,pid,split", *lines]))
    return f"manifest:{root / 'a' / '..' / 'crops.csv'}"


def plant_kind(kind: str, root: Path, plant: Callable) -> str:
    if kind == "regex":
        return plant_market(root, plant, kind, PATTERN)
    other = {"folders": plant_folders, "msmt17": plant_msmt17, "manifest": plant_manifest}
    return other[kind](root, plant) if kind in other else plant_market(root, plant, kind)


PLACES = {"folders": "train/0001", "msmt17": "train/0001", "manifest": "a"}
"""A folder of images; of the others it is that of the training split."""


def litter(kind: str, root: Path, plant: Callable) -> dict[str, str]:
    """Plant every sort of unused file in the data set; return the first name by reason."""
    place = PLACES.get(kind, MARKET[0])
    plant(root, [f"{place}/._1.jpg", f"{place}/.DS_Store", f"{place}/Thumbs.db"])
    plant(root, [f"{place}/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", f"{place}/__MACOSX/._1.jpg"])
    plant(root, [f"{place}/.ipynb_checkpoints/0001_c1.jpg", f"{place}/notes.txt"])
    plant(root, [f"{place}/0001_c1.HEIC", f"{place}/tracklet/0009_c1.jpg"])
    junk = {"folders": "gallery/-1/c.tiff", "manifest": "a/5.jpg"}
    junk["msmt17"] = "train/0000/0000_001_02_a.jpg"
    first = {
        LEFT_BY_SYSTEMS: f"{place}/.DS_Store",
        NO_IMAGES: f"{place}/notes.txt",
        OTHER_FORMATS: f"{place}/0001_c1.HEIC",
        UNLISTED if kind in ("msmt17", "manifest") else DEEPER: f"{place}/tracklet/0009_c1.jpg",
        BY_PROTOCOL: junk.get(kind, "bounding_box_test/-1_c2.tif"),
    }
    if kind == "manifest":  # neither a root nor names; its paths are relative to their folder
        return {reason: name.removeprefix("a/") for reason, name in first.items()}
    lost = {"folders": "query/0008", "msmt17": "train/0005"}
    first[NO_PERSON_LEFT] = lost.get(kind, "bounding_box_train/0009")
    (root / first[NO_PERSON_LEFT] / "empty").mkdir(parents=True)
    plant(root, ["gt_bbox/0001_c1.jpg"])
    first[BESIDE] = "gt_bbox"
    if kind != "msmt17":
        first[MISNAMED] = "train/holidays/1.jpg" if kind == "folders" else f"{place}/holidays.jpg"
        plant(root, [first[MISNAMED]])
    return first


ON_DISK = [kind for kind in KINDS if KINDS[kind].on_disk]


def verdicts(dataset: ReIDDataset) -> dict[str, tuple[str, str]]:
    findings = check_unused(dataset)
    return {f.subject: (f.found[0], f.verdict) for f in findings if f.found}


@pytest.mark.parametrize("kind", ON_DISK)
def test_every_sort_of_unused_file_is_reported(tmp_path: Path, plant, kind: str) -> None:
    spec = plant_kind(kind, tmp_path / "d", plant)
    assert set(verdicts(load_dataset(spec))) == {BY_PROTOCOL}
    expected = litter(kind, tmp_path / "d", plant)
    found = verdicts(load_dataset(spec, allow_misnamed=True))
    notes = {BY_PROTOCOL, BESIDE, LEFT_BY_SYSTEMS, NO_IMAGES}
    assert {reason: verdict for reason, (_, verdict) in found.items()} == {
        reason: "note" if reason in notes else "PROBLEM" for reason in expected
    }
    assert {reason: name for reason, (name, _) in found.items()} == expected


@pytest.mark.parametrize("kind", ON_DISK)
def test_check_names_every_sort_of_unused_file(
    tmp_path: Path, plant, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_width", 250)
    spec = plant_kind(kind, tmp_path, plant)
    expected = litter(kind, tmp_path, plant)
    output = end(3, "check", spec)
    for reason, name in expected.items():
        assert reason in output
        assert name in output


def test_one_percent_of_the_images_may_be_unused(tmp_path: Path, plant) -> None:
    plant_folders(tmp_path, plant)
    plant(tmp_path, [f"train/0001/x{n}.png" for n in range(92)])
    plant(tmp_path, ["train/0001/deeper/x.png"])
    load = lambda: load_dataset(f"folders:{tmp_path}")  # noqa: E731
    assert verdicts(load())[DEEPER] == ("train/0001/deeper/x.png", "PROBLEM")
    plant(tmp_path, ["train/0001/x92.png"])
    assert verdicts(load())[DEEPER] == ("train/0001/deeper/x.png", "note")


def test_more_misnamed_images_are_refused_except_by_check(tmp_path: Path, plant) -> None:
    spec = plant_market(tmp_path, plant, "market1501")
    plant(tmp_path, [f"query/holiday{n}.jpg" for n in range(2)])
    with pytest.raises(PivlError, match=r"holiday0\.jpg has no identity .* 2 of 8 images are not"):
        load_dataset(spec)
    assert verdicts(load_dataset(spec, allow_misnamed=True))[MISNAMED][1] == "PROBLEM"
    plant(tmp_path, [f"bounding_box_train/0001_c1_{n}.jpg" for n in range(192)])
    assert verdicts(load_dataset(spec))[MISNAMED] == ("query/holiday0.jpg", "note")


def test_a_person_whose_images_are_all_deeper_is_a_problem(tmp_path: Path, plant) -> None:
    plant_folders(tmp_path, plant)
    plant(tmp_path, [f"train/0001/x{n}.png" for n in range(300)])
    plant(tmp_path, ["train/0004/tracklet1/a.jpg", "train/0004/tracklet1/b.jpg"])
    found = verdicts(load_dataset(f"folders:{tmp_path}"))
    assert found[DEEPER] == ("train/0004/tracklet1/a.jpg", "note")
    assert found[NO_PERSON_LEFT] == ("train/0004", "PROBLEM")


def test_maps_and_linked_folders(tmp_path: Path, plant) -> None:
    root, elsewhere = tmp_path / "d", plant(tmp_path / "e", ["1.jpg"])
    spec = plant_folders(root, plant)
    plant(root, ["parsing-schp/train/0001/1.png", "train/maps/0001/1.png"])
    for folder in ("parsing-schp", "train/maps"):
        (root / folder / "parsing.json").write_text("{}")
    (root / "train" / "0005").symlink_to(elsewhere)  # an identity's folder like any other
    (root / "train" / "0005" / "more").symlink_to(tmp_path)
    (root / "query" / "0003" / "lost.jpg").symlink_to(tmp_path / "gone.jpg")
    dataset = load_dataset(spec)
    assert {5, 1, 2} == set(dataset.train_pids)
    assert [record.path.name for record in dataset.query] == ["a.bmp", "lost.jpg"]
    assert set(verdicts(dataset)) == {BY_PROTOCOL}
    (root / "train" / "0006").symlink_to(tmp_path)
    assert verdicts(load_dataset(spec))[LINKED] == ("train/0006", "note")


def test_unused_files_of_a_folder_without_a_layout(
    tmp_path: Path, plant, caplog: pytest.LogCaptureFixture
) -> None:
    plant(tmp_path, ["a/1.jpg", "a/2.gif", "Thumbs.db"])
    findings = find_unused(Searched((tmp_path,)), [tmp_path / "a" / "1.jpg"])
    log_unused(findings, "crops")
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (
            logging.WARNING,
            "PROBLEM: not used in crops: images of formats that are not read (1, first a/2.gif).",
        ),
        (
            logging.INFO,
            "Not used in crops: hidden files and folders, or left by other systems"
            " (1, first Thumbs.db).",
        ),
    ]


def test_images_of_the_working_directory_are_used(
    tmp_path: Path, plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plant(tmp_path, ["1.jpg", "a/2.jpg"]))
    for folder in (Path(), Path("a/..")):
        images = find_images(folder)
        assert len(images) == 2
        assert not any(finding.found for finding in find_unused(Searched((folder,)), images))


def test_training_begins_with_what_is_not_used(tmp_path: Path, plant) -> None:
    spec = plant_market(tmp_path, plant, "market1501")
    plant(tmp_path, ["query/.DS_Store", "bounding_box_train/0001/0001_c1.jpg"])
    output = end(2, "student", "--bank", "none", "--config", "quick", "--data", spec)
    assert f"Not used in {spec}: hidden files" in output
    assert f"PROBLEM: not used in {spec}: images in deeper folders (1, first bounding" in output
    assert "left out by the protocol" not in output
