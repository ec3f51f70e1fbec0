"""Part maps drawn from generated body points, and the folder that `--parsing` takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.market1501.files import SIZE_HW, Files
from benchmarks.market1501.part_maps import BodyDrawing, draw_maps, read_points
from market_files import PIDS, SHOTS, STANDING
from pivl_distill.data.part_maps import read_stored_labels
from pivl_distill.data.vocabulary import PASCAL7
from pivl_distill.errors import PivlError


def label(drawn: np.ndarray, point: tuple[float, float]) -> str:
    x, y = (round(value) for value in point)
    return PASCAL7.labels[drawn[y, x]]


def test_each_part_is_where_its_points_are() -> None:
    drawn = BodyDrawing(STANDING, SIZE_HW).draw()
    assert (drawn.shape, drawn.dtype) == (SIZE_HW, np.uint8)
    middles = {(0, 1): "Head", (2, 3): "Upper Arms", (3, 4): "Lower Arms", (5, 6): "Upper Legs"}
    middles |= {(6, 7): "Lower Legs", (9, 10): "Upper Legs", (12, 11): "Lower Arms"}
    for (start, end), part in middles.items():
        assert label(drawn, (STANDING[start] + STANDING[end]) / 2) == part
    assert label(drawn, STANDING[[2, 13, 5, 10]].mean(0)) == "Torso"
    assert label(drawn, (3, 3)) == "Background"
    assert set(np.unique(drawn)) == set(range(len(PASCAL7)))


def test_a_person_from_the_side_has_a_trunk() -> None:
    points = STANDING.copy()
    points[:, 0] = 32  # all points on one vertical line
    drawn = BodyDrawing(points, SIZE_HW).draw()
    assert (drawn[32:58] == PASCAL7.index("Torso")).sum(1).min() >= 6


def test_points_in_one_place_do_not_fail() -> None:
    drawn = BodyDrawing(np.full((15, 2), 30.0), SIZE_HW).draw()
    assert label(drawn, (30, 30)) == "Head"


def test_maps_are_drawn_once_for_every_training_image(root: Path) -> None:
    files = Files(root)
    assert draw_maps(files) == len(PIDS) * SHOTS
    dataset = files.load_dataset(with_maps=True)
    assert dataset.vocabulary == PASCAL7
    maps = [record.parsing for record in dataset.train]
    assert all(path is not None for path in maps)
    first = dataset.train[0].parsing
    assert first is not None
    assert np.array_equal(read_stored_labels(first), BodyDrawing(STANDING, SIZE_HW).draw())
    written = first.stat().st_mtime_ns
    first.with_name("0002_c2s1_000001_01.png").unlink()
    draw_maps(files)
    assert first.stat().st_mtime_ns == written
    assert first.with_name("0002_c2s1_000001_01.png").is_file()


def test_damaged_or_incomplete_points_are_named(root: Path) -> None:
    files = Files(root)
    lines = files.points.read_text().splitlines()
    files.points.write_text("\n".join([*lines[:3], "0002_c1s1_000000_01.jpg 3 4"]))
    with pytest.raises(PivlError, match=r"Line 4 of .* is not a file name and 15 points"):
        read_points(files.points)
    files.points.write_text("\n".join(lines[1:]))
    with pytest.raises(PivlError, match="no points of 1 training images, such as 0002_c1s1_000000"):
        draw_maps(files)


def test_missing_files_are_named_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(PivlError, match=r"Anno_Market_12936.txt does not exist.*README.md"):
        _ = Files(tmp_path).points
    with pytest.raises(PivlError, match=r"Draw the part maps first: `.* part-maps --root"):
        Files(tmp_path).load_dataset(with_maps=True)
