"""Features for trackers: channel order, alignment with boxes, and the trackers themselves.

The tests that need a tracker run in the environment of `python -m benchmarks.tracking`;
tests/benchmarks/tracking/test_trackers.py builds it and runs this file there.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pivl_distill.errors import PivlError
from pivl_distill.runtime.trackers import (
    BoxMOTReID,
    deep_sort_embeds,
    max_cosine_distance,
    norfair_detections,
    norfair_distance,
)

PAGE = Path(__file__).parents[3] / "docs" / "trackers.md"
BOXES = np.array([(3.0, 5.0, 40.0, 90.0), (50.0, 2.0, 90.0, 99.0), (100.0, 20.0, 130.0, 80.0)])
SCORES = np.array((0.9, 0.8, 0.7))


def needs(package: str):
    reason = f"{package} is installed by tests/benchmarks/tracking/test_trackers.py only"
    return pytest.importorskip(package, reason=reason)


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)


@pytest.fixture
def bgr(rgb) -> np.ndarray:
    return np.ascontiguousarray(rgb[..., ::-1])


def ltwh(boxes):
    return [([a, b, c - a, d - b], 0.9, "person") for a, b, c, d in boxes.tolist()]


def test_boxmot_gets_the_features_of_the_rgb_frame(extractor, rgb, bgr):
    features = BoxMOTReID(extractor).get_features(BOXES, bgr)
    assert features.dtype == np.float32
    assert np.array_equal(features, extractor.embed_boxes(rgb, BOXES))
    assert not np.allclose(features, extractor.embed_boxes(bgr, BOXES), atol=1e-3)
    assert BoxMOTReID(extractor).get_features(BOXES[:0], bgr).shape == (0, extractor.dim)


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_deep_sort_gets_the_same_features_in_either_channel_order(extractor, rgb, bgr, colour):
    frame = {"rgb": rgb, "bgr": bgr}[colour]
    embeds = deep_sort_embeds(extractor, ltwh(BOXES), frame, colour=colour)
    assert np.array_equal(np.stack(embeds), extractor.embed_boxes(rgb, BOXES))
    assert deep_sort_embeds(extractor, [], frame, colour=colour) == []


def test_the_camera_is_passed_for_every_box(rgb):
    asked = []
    network = SimpleNamespace(
        embed_boxes=lambda frame, boxes, cameras: asked.append(cameras) or np.ones((3, 2))
    )
    BoxMOTReID(network, camera=4).get_features(BOXES, rgb)
    deep_sort_embeds(network, ltwh(BOXES), rgb, colour="rgb", camera=0)
    BoxMOTReID(network).get_features(BOXES, rgb)
    assert asked == [[4, 4, 4], [0, 0, 0], None]


def seen(*vectors):
    return [SimpleNamespace(embedding=np.array(vector)) for vector in vectors]


def test_norfair_distance_is_that_of_the_most_similar_look():
    lost = SimpleNamespace(past_detections=seen((1, 0), (0, 1)), last_detection=seen((0.6, 0.8))[0])
    for new, expected in (((1, 0), 0.0), ((0.8, -0.6), 0.2), ((0.6, 0.8), 0.0), ((-1, 0), 1.0)):
        found = SimpleNamespace(last_detection=seen(new)[0])
        assert norfair_distance(found, lost) == pytest.approx(expected)


def test_the_threshold_is_the_measured_one(extractor):
    assert max_cosine_distance(extractor, 1e-2) == 1 - extractor.threshold(1e-2)
    with pytest.raises(PivlError, match=r"has no threshold for a false-accept rate of 0\.5"):
        max_cosine_distance(extractor, 0.5)


def test_wrong_input_is_refused(extractor, rgb):
    with pytest.raises(PivlError, match=r"'BGR'; use bgr \(OpenCV\) or rgb"):
        deep_sort_embeds(extractor, ltwh(BOXES), rgb, colour="BGR")
    with pytest.raises(PivlError, match="The frame must be a uint8 array"):
        BoxMOTReID(extractor).get_features(BOXES, rgb / 255)
    with pytest.raises(PivlError, match=r"Box 1 .* has no pixel in the frame"):
        deep_sort_embeds(extractor, ltwh(BOXES + np.array([[0], [150], [0]])), rgb, colour="rgb")
    with pytest.raises(PivlError, match="3 boxes need as many scores, not 2"):
        norfair_detections(extractor, BOXES, SCORES[:2], rgb, colour="rgb")


def test_boxmot_tracks_carry_the_features(extractor, rgb, bgr):
    botsort = needs("boxmot").BotSort
    tracker = botsort(reid_model=BoxMOTReID(extractor), use_cmc=False)
    found = np.column_stack((BOXES, SCORES, np.zeros(3)))
    rows = tracker.update(found, bgr)
    assert len(rows) == 3
    expected = extractor.embed_boxes(rgb, BOXES)
    for track in tracker.active_tracks:
        assert np.allclose(track.curr_feat, expected[int(track.det_ind)], atol=1e-6)


def test_deep_sort_tracks_carry_the_features_of_their_own_boxes(extractor, rgb):
    """`update_tracks` drops the second detection, which has no width."""
    deep_sort = needs("deep_sort_realtime.deepsort_tracker").DeepSort
    boxes = np.insert(BOXES, 1, (60, 10, 60, 50), axis=0)
    tracker = deep_sort(embedder=None, n_init=1)
    embeds = deep_sort_embeds(extractor, ltwh(boxes), rgb, colour="rgb")
    assert len(tracker.update_tracks(ltwh(boxes), embeds=embeds)) == 3
    tracks = tracker.update_tracks(ltwh(boxes), embeds=embeds)
    expected = {tuple(box): vector for box, vector in zip(BOXES, embeds, strict=True)}
    for track in tracks:
        (vector,) = track.features
        assert np.array_equal(vector, expected[tuple(track.to_ltrb(orig=True))])


@pytest.mark.parametrize("with_reid", [True, False])
def test_norfair_finds_a_lost_person_again_elsewhere(extractor, rgb, with_reid):
    norfair = needs("norfair")
    here, there = (10, 5, 40, 90), (100, 5, 130, 90)
    elsewhere = np.zeros_like(rgb)
    elsewhere[5:90, 100:130] = rgb[5:90, 10:40]
    reid = {
        "reid_distance_function": norfair_distance,
        "reid_distance_threshold": 1e-3,
        "reid_hit_counter_max": 20,
    }
    tracker = norfair.Tracker(
        "iou", 0.5, hit_counter_max=3, initialization_delay=1, **(reid if with_reid else {})
    )

    def ids(frame, box):
        found = norfair_detections(extractor, [box], [0.9], frame, colour="rgb")
        return {one.id for one in tracker.update(found)}

    first = [ids(rgb, here) for _ in range(4)][-1]
    for _ in range(8):
        tracker.update([])
    again = [ids(elsewhere, there) for _ in range(4)][-1]
    assert len(first) == len(again) == 1
    assert (first == again) == with_reid


def test_the_page_runs_from_top_to_bottom(deployed_once, tmp_path, monkeypatch):
    for package in ("boxmot", "deep_sort_realtime", "norfair"):
        needs(package)
    (tmp_path / "deploy").symlink_to(deployed_once)
    picture = np.random.default_rng(0).integers(0, 256, (150, 220, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "frame.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
