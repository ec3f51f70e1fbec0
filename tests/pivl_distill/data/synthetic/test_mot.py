"""MOTChallenge sequences: layout, numbering, and a detector that fits the ground truth."""

from __future__ import annotations

import configparser

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.synthetic import mot
from pivl_distill.data.synthetic.mot import write_sequence
from pivl_distill.data.synthetic.video import render_video
from pivl_distill.errors import PivlError

FRAMES = 20


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mot") / "street"
    write_sequence(folder, seed=3, frames=FRAMES)
    return folder


def rows(sequence, name):
    return np.loadtxt(sequence / name / f"{name}.txt", delimiter=",")


def test_the_layout_is_that_of_motchallenge(sequence):
    names = sorted(path.relative_to(sequence).as_posix() for path in sequence.rglob("*.*"))
    frames = [f"img1/{number:06d}.jpg" for number in range(1, FRAMES + 1)]
    assert names == ["det/det.txt", "gt/gt.txt", *frames, "seqinfo.ini"]
    info = configparser.ConfigParser()
    info.read(sequence / "seqinfo.ini")
    assert info["Sequence"]["name"] == "street"
    assert int(info["Sequence"]["seqLength"]) == FRAMES
    with Image.open(sequence / "img1" / "000001.jpg") as image:
        assert image.size == (int(info["Sequence"]["imWidth"]), int(info["Sequence"]["imHeight"]))


def test_the_ground_truth_is_that_of_the_video_counted_from_one(sequence):
    expected = [
        (number, box.person + 1, box.left + 1, box.top + 1, box.right - box.left,
         box.bottom - box.top, box.visible >= mot.COUNTED_FROM, 1, box.visible)
        for number, frame in enumerate(render_video(3, frames=FRAMES), 1)
        for box in frame.boxes
    ]  # fmt: skip
    assert np.allclose(rows(sequence, "gt"), expected, atol=5e-4)


def overlap(a, b):
    """Intersection over union of two boxes (left, top, width, height)."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def test_the_detector_finds_who_is_visible_and_few_others(sequence):
    truth, found = rows(sequence, "gt"), rows(sequence, "det")
    assert set(found[:, 1]) == {-1}
    assert ((found[:, 6] > 0) & (found[:, 6] < 1)).all()
    best = [
        max(overlap(row[2:6], box[2:6]) for box in truth[truth[:, 0] == row[0]]) for row in found
    ]
    assert np.mean(np.array(best) < 0.5) < 0.1
    clear = truth[truth[:, 8] > 0.9]
    seen = [
        any(overlap(box[2:6], row[2:6]) > 0.5 for row in found[found[:, 0] == box[0]])
        for box in clear
    ]
    assert np.mean(seen) > 0.9
    assert len(found) < len(truth)


def test_detected_boxes_are_inside_the_frame(sequence):
    left, top, width, height = rows(sequence, "det")[:, 2:6].T
    assert (left >= 1).all()
    assert (top >= 1).all()
    assert (left - 1 + width <= 640.011).all()
    assert (top - 1 + height <= 360.011).all()


def test_a_seed_gives_the_same_files(sequence, tmp_path):
    write_sequence(tmp_path / "street", seed=3, frames=FRAMES)
    for path in sequence.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "street" / path.relative_to(sequence)).read_bytes()


def test_an_existing_folder_is_refused(sequence):
    with pytest.raises(PivlError, match="street exists already"):
        write_sequence(sequence, seed=3, frames=1)
