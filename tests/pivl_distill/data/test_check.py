"""`check`: a clean dataset passes, and each fault is reported with its count and verdict."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data import check
from pivl_distill.data.check import CheckReport, check_dataset, compare_counts
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.published_counts import PUBLISHED, PublishedCounts
from pivl_distill.data.searched import BY_PROTOCOL

# Two training people and two test people with two cameras each, and a distractor.
NAMES = (
    *(f"bounding_box_train/000{pid}_c{cam}_a.jpg" for pid in (1, 2) for cam in (1, 2)),
    *(f"query/000{pid}_c1_a.jpg" for pid in (3, 4)),
    *(f"bounding_box_test/000{pid}_c{cam}_b.jpg" for pid in (3, 4) for cam in (1, 2)),
    "bounding_box_test/0000_c1_a.jpg",
    "bounding_box_test/-1_c1_a.jpg",
)
COUNTS = {"train": (4, 2, 2), "query": (2, 2, 1), "gallery": (5, 3, 2)}


@pytest.fixture
def tree(tmp_path: Path, plant, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(
        check.PUBLISHED, "market1501", PublishedCounts(COUNTS, "counts of this test")
    )
    return plant(tmp_path / "tree", NAMES)


def nonempty_findings(report: CheckReport) -> dict[str, tuple[int, str]]:
    return {
        finding.subject: (len(finding.found), finding.verdict)
        for finding in report.findings
        if finding.found and finding.subject != BY_PROTOCOL
    }


def add_maps(tree: Path) -> Path:
    for path in (tree / "bounding_box_train").iterdir():
        map_path = tree / "parsing" / "bounding_box_train" / f"{path.stem}.png"
        map_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((16, 8), np.uint8)).save(map_path)
    (tree / "parsing" / "parsing.json").write_text('{"vocabulary": "lip20"}')
    return tree / "parsing" / "bounding_box_train"


def test_clean_dataset_passes(tree: Path) -> None:
    add_maps(tree)
    report = check_dataset(load_dataset(f"market1501:{tree}"))
    assert nonempty_findings(report) == {}
    assert report.problems == 0
    (junk,) = (finding for finding in report.findings if finding.verdict != "ok")
    assert (junk.subject, junk.verdict) == (BY_PROTOCOL, "note")
    assert junk.found == ("bounding_box_test/-1_c1_a.jpg",)
    assert (report.counts, report.mapped, report.has_cameras) == (COUNTS, 4, True)
    assert report.published is not None
    assert len(report.findings) == 18


def move(tree: Path, old: str, new: str) -> None:
    (tree / old).rename(tree / new)


def copy(tree: Path, old: str, new: str) -> None:
    shutil.copy(tree / old, tree / new)


MOVED_COUNTS = {"splits with other counts than published": (1, "PROBLEM")}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda tree: (tree / NAMES[0]).write_bytes(b"no image"),
            {"images that cannot be read": (1, "PROBLEM")},
        ),
        (
            lambda tree: copy(tree, "bounding_box_train/0001_c1_a.jpg", "query/0003_c1_a.jpg"),
            {"test images also in training": (1, "PROBLEM")},
        ),
        (
            lambda tree: copy(tree, "query/0003_c1_a.jpg", "bounding_box_test/0003_c2_b.jpg"),
            {"queries that find themselves": (1, "PROBLEM")},
        ),
        (  # with the same camera the copy is junk
            lambda tree: copy(tree, "query/0003_c1_a.jpg", "bounding_box_test/0003_c1_b.jpg"),
            {},
        ),
        (
            lambda tree: copy(
                tree, "bounding_box_test/0003_c1_b.jpg", "bounding_box_test/0004_c1_b.jpg"
            ),
            {"images under two identities": (2, "PROBLEM")},
        ),
        (
            lambda tree: copy(
                tree, "bounding_box_train/0001_c1_a.jpg", "bounding_box_train/0001_c2_a.jpg"
            ),
            {"images with a copy in their split": (2, "note")},
        ),
        (
            lambda tree: move(tree, "query/0003_c1_a.jpg", "query/0001_c1_a.jpg"),
            {
                "identities in both training and test": (1, "PROBLEM"),
                "queries without a match in the gallery": (1, "note"),
            },
        ),
        (
            lambda tree: move(
                tree, "bounding_box_test/0003_c2_b.jpg", "bounding_box_test/0003_c1_c.jpg"
            ),
            {"queries without a match in the gallery": (1, "note")},
        ),
        (
            lambda tree: move(
                tree, "bounding_box_train/0001_c2_a.jpg", "bounding_box_train/0001_c1_b.jpg"
            ),
            {"training identities under one camera": (1, "note")},
        ),
        (
            lambda tree: (tree / "bounding_box_train/0001_c2_a.jpg").unlink(),
            {
                **MOVED_COUNTS,
                "training identities with one image": (1, "note"),
                "training identities under one camera": (1, "note"),
            },
        ),
    ],
)
def test_each_fault_is_reported(
    tree: Path, damage: Callable[[Path], object], expected: dict[str, tuple[int, str]]
) -> None:
    damage(tree)
    report = check_dataset(load_dataset(f"market1501:{tree}"))
    assert nonempty_findings(report) == expected
    assert report.problems == sum(verdict == "PROBLEM" for _, verdict in expected.values())


def test_duplicate_is_named_with_its_original(tree: Path) -> None:
    copy(tree, "bounding_box_train/0001_c1_a.jpg", "query/0003_c1_a.jpg")
    findings = check_dataset(load_dataset(f"market1501:{tree}")).findings
    (finding,) = (finding for finding in findings if finding.verdict == "PROBLEM")
    assert finding.found == ("query/0003_c1_a.jpg = bounding_box_train/0001_c1_a.jpg",)


def test_dataset_without_any_matching_query_is_a_problem(tree: Path) -> None:
    for pid in (3, 4):
        move(tree, f"bounding_box_test/000{pid}_c2_b.jpg", f"bounding_box_test/000{pid}_c1_c.jpg")
    report = check_dataset(load_dataset(f"market1501:{tree}"))
    assert nonempty_findings(report)["queries without a match in the gallery"] == (2, "PROBLEM")


def test_maps_are_compared_with_their_images(tree: Path) -> None:
    maps = add_maps(tree)
    (maps / "0001_c1_a.png").unlink()
    Image.fromarray(np.ones((16, 9), np.uint8)).save(maps / "0001_c2_a.png")
    Image.fromarray(np.full((16, 8), 77, np.uint8)).save(maps / "0002_c1_a.png")
    Image.new("RGB", (8, 16)).save(maps / "0002_c2_a.png")
    report = check_dataset(load_dataset(f"market1501:{tree}"))
    assert report.mapped == 3
    assert nonempty_findings(report) == {
        "training images without a map": (1, "note"),
        "maps whose size differs from their image": (1, "PROBLEM"),
        "maps with values outside the vocabulary": (1, "PROBLEM"),
        "maps that are not a readable single-channel 8-bit PNG": (1, "PROBLEM"),
    }


def test_without_cameras_a_query_copied_to_the_gallery_is_a_problem(tmp_path: Path, plant) -> None:
    names = ("train/1/a.jpg", "train/1/b.jpg", "query/2/a.jpg", "gallery/2/b.jpg")
    root = plant(tmp_path, names)
    report = check_dataset(load_dataset(f"folders:{root}"))
    assert not report.has_cameras
    assert report.published is None
    assert nonempty_findings(report) == {}
    copy(root, "query/2/a.jpg", "gallery/2/a.jpg")
    report = check_dataset(load_dataset(f"folders:{root}"))
    assert nonempty_findings(report) == {"queries that find themselves": (1, "PROBLEM")}


def test_synthetic_datasets_are_not_compared_with_published_counts(tree: Path) -> None:
    (tree / NAMES[0]).unlink()
    dataset = load_dataset(f"market1501:{tree}")
    assert check_dataset(dataset).problems == 1
    assert check_dataset(replace(dataset, people={})).problems == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_only_published_counts_pass(name: str) -> None:
    published = PUBLISHED[name].counts
    assert compare_counts(published, published).verdict == "ok"
    images, *others = published["train"]
    incomplete = {**published, "train": (images - 1, *others)}
    assert compare_counts(incomplete, published).found == ("train",)


def test_published_counts_add_up() -> None:
    """π-VL's Table 1: all images of MSMT17, DukeMTMC-reID and Occluded-Duke."""
    totals = {
        name: sum(images for images, _, _ in published.counts.values())
        for name, published in PUBLISHED.items()
    }
    assert totals["msmt17"] == 126_441
    assert totals["dukemtmc"] == 36_411
    assert totals["occluded_duke"] == 35_489
    assert totals["msmt17"] - totals["msmt17-no-val"] == 2_373


def test_missing_test_split_is_a_problem(tree: Path) -> None:
    shutil.rmtree(tree / "query")
    report = check_dataset(load_dataset(f"market1501:{tree}"))
    assert nonempty_findings(report) == {
        **MOVED_COUNTS,
        "splits without images": (1, "PROBLEM"),
    }
