"""The written dataset: Market-1501's layout, written atomically."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.synthetic import dataset
from pivl_distill.data.synthetic.dataset import (
    GALLERY,
    QUERY,
    TRAIN,
    PlannedCrop,
    plan,
    write_dataset,
)
from pivl_distill.data.synthetic.people import attributes, person
from pivl_distill.data.synthetic.render import Rendering
from pivl_distill.data.synthetic.tiers import TIERS, Tier
from pivl_distill.errors import PivlError

TINY = TIERS["tiny"]
NAME = re.compile(r"^(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d\d)\.jpg$")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(root, TINY, seed=3, workers=1)
    return root


def _crops(root: Path, split: str) -> list[tuple[int, int]]:
    """(pid, camera) of every crop; fails on a name that Market-1501 would not have."""
    pids_and_cameras = []
    for path in sorted((root / split).iterdir()):
        match = NAME.match(path.name)
        assert match, path.name
        pids_and_cameras.append((int(match[1]), int(match[2])))
    return pids_and_cameras


def _digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_counts(root: Path) -> None:
    test = TINY.test_pids * TINY.cameras
    assert len(_crops(root, TRAIN)) == TINY.train_pids * TINY.cameras * TINY.shots
    assert len(_crops(root, QUERY)) == test
    gallery = [pid for pid, _ in _crops(root, GALLERY)]
    assert len(gallery) == test * (TINY.shots - 1) + TINY.distractors + TINY.junk
    assert gallery.count(0) == TINY.distractors
    assert gallery.count(-1) == TINY.junk


def test_train_and_test_people_differ_and_cameras_do_not(root: Path) -> None:
    train, query, gallery = (_crops(root, split) for split in (TRAIN, QUERY, GALLERY))
    people = {pid for pid, _ in train}
    assert len(people) == TINY.train_pids
    assert not people & {pid for pid, _ in query + gallery}
    cameras = {camera for _, camera in train}
    assert cameras == {1, 2, 3} == {camera for _, camera in query}


def test_every_query_has_a_match_in_another_camera(root: Path) -> None:
    gallery = _crops(root, GALLERY)
    for pid, camera in _crops(root, QUERY):
        assert any(pid == other and camera != seen_by for other, seen_by in gallery)


def test_distractors_are_no_training_or_test_people() -> None:
    crops = plan(TINY)
    known = {crop.person for crop in crops if crop.pid > 0}
    others = [crop.person for crop in crops if crop.pid <= 0]
    assert not known & set(others)
    assert None in others
    assert any(other is not None for other in others)


def test_every_crop_has_a_palette_map_of_its_size(root: Path) -> None:
    for split in (TRAIN, QUERY, GALLERY):
        images = {path.stem: path for path in (root / split).iterdir()}
        maps = {path.stem: path for path in (root / "parsing" / split).iterdir()}
        assert images.keys() == maps.keys()
        for stem, path in maps.items():
            with Image.open(path) as part_map, Image.open(images[stem]) as image:
                assert (part_map.format, part_map.mode) == ("PNG", "P")
                assert part_map.size == image.size == TINY.size_hw[::-1]
                assert np.asarray(part_map).max() < 20


def test_written_maps_equal_the_rendered_ones(root: Path) -> None:
    crop = plan(TINY)[5]
    with Image.open(root / "parsing" / crop.split / f"{crop.stem}.png") as part_map:
        np.testing.assert_array_equal(
            np.asarray(part_map), dataset.render_crop(TINY, 3, crop).labels
        )


def test_descriptions(root: Path) -> None:
    parsing = json.loads((root / "parsing" / "parsing.json").read_text(encoding="utf-8"))
    assert (parsing["format"], parsing["vocabulary"]) == (1, "lip20")
    description = json.loads((root / "synthetic.json").read_text(encoding="utf-8"))
    assert (description["format"], description["seed"]) == (1, 3)
    assert description["size_hw"] == [128, 64]
    assert description["tier"]["name"] == "tiny"
    pids = {pid for split in (TRAIN, QUERY) for pid, _ in _crops(root, split)}
    assert {int(pid) for pid in description["people"]} == pids
    assert description["people"]["5"] == attributes(person(3, 4, TINY.family_size))


def test_bytes_do_not_depend_on_the_number_of_workers(root: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", TINY, seed=3, workers=2)
    assert _digests(tmp_path / "again") == _digests(root)


def test_seeds_give_different_crops(root: Path) -> None:
    crop = plan(TINY)[0]
    assert (
        dataset.render_crop(TINY, 3, crop).image != dataset.render_crop(TINY, 4, crop).image
    ).any()


def test_failed_write_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = dataset.render_crop

    def fail_late(tier: Tier, seed: int, crop: PlannedCrop) -> Rendering:
        if crop.number == 20:
            raise OSError("disk full")
        return original(tier, seed, crop)

    monkeypatch.setattr(dataset, "render_crop", fail_late)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(tmp_path / "tree", TINY, seed=0, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(PivlError, match="exists already"):
        write_dataset(tmp_path / "mine", TINY, seed=0)
    assert list((tmp_path / "mine").iterdir()) == []
