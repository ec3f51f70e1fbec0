"""Boxes cut out of frames, and the checks of images."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.runtime.frame_crops import check_crop, check_image


def test_boxes_are_cropped_and_clipped(extractor):
    frame = np.random.default_rng(2).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes = [(10, 5, 40, 70), (-8, -3.5, 20.2, 30.9), (100, 60, 500, 500), (7.9, 8, 8.1, 9)]
    cuts = [frame[5:70, 10:40], frame[:31, :21], frame[60:, 100:], frame[8:9, 7:9]]
    np.testing.assert_array_equal(extractor.embed_boxes(frame, boxes), extractor.embed(cuts))
    as_array = extractor.embed_boxes(frame, np.array(boxes, np.float32))
    np.testing.assert_allclose(as_array, extractor.embed(cuts), atol=1e-6)


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((120, 0, 150, 20), "Box 1 .* has no pixel in the frame of 120x90"),
        ((5, -20, 30, -4), "has no pixel"),
        ((-20, 5, -1, 30), "has no pixel"),
        ((30, 5, 20, 30), "has no pixel"),
        ((float("nan"), 5, 20, 30), "Box 1 must be left, top"),
        ((1, 2, 3), "Box 1 must be left, top"),
        (7, r"Box 1 must be left, top, right, bottom in pixels, not 7; .* in a list: \[box\]"),
    ],
)
def test_invalid_boxes_are_named(extractor, box, sentence):
    frame = np.zeros((90, 120, 3), np.uint8)
    with pytest.raises(PivlError, match=sentence):
        extractor.embed_boxes(frame, [(0, 0, 10, 10), box])


def test_single_box_outside_a_list_is_rejected(extractor):
    with pytest.raises(PivlError, match="Box 0 must be left, top, right, bottom"):
        extractor.embed_boxes(np.zeros((90, 120, 3), np.uint8), (0, 0, 10, 10))


@pytest.mark.parametrize(
    ("crop", "sentence"),
    [
        (np.zeros((8, 4, 3), np.float32), "Crop 1 must be a uint8 array of 0..255, not float32"),
        (np.zeros((8, 4), np.uint8), r"Crop 1 must be RGB \[H, W, 3\], not of shape \[8, 4\]"),
        (np.zeros((8, 4, 4), np.uint8), "must be RGB"),
        (np.zeros((0, 4, 3), np.uint8), "must be RGB"),
        ([[0]], "must be a uint8 array of 0..255, not list"),
    ],
)
def test_invalid_crops_are_named(extractor, crop, sentence):
    with pytest.raises(PivlError, match=sentence):
        extractor.embed([np.zeros((8, 4, 3), np.uint8), crop])


@pytest.mark.parametrize("size_hw", [(1, 2**15 + 1), (2**13, 2**13)])
def test_huge_crops_are_rejected(size_hw):
    huge = np.broadcast_to(np.zeros(3, np.uint8), (*size_hw, 3))
    with pytest.raises(PivlError, match=r"Crop 3 has \d+×\d+ pixels; a crop has at most"):
        check_crop(huge, "Crop 3")
    check_image(huge, "The frame")
