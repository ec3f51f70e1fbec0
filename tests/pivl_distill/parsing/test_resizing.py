"""Resizing crops and resampling scores, against PyTorch's resizing and by geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pivl_distill.data.vocabulary import IGNORE
from pivl_distill.parsing.resizing import (
    compute_placement,
    map_from_scores,
    resample_scores,
    resize_to_input,
)
from pivl_distill.parsing.settings import SegformerSettings


def test_letterboxed_crop_is_centred() -> None:
    placement = compute_placement((128, 64), (473, 473), "letterbox")
    assert (placement.top, placement.left, placement.height, placement.width) == (0, 118, 473, 236)
    wide = compute_placement((10, 30), (60, 60), "letterbox")
    assert (wide.top, wide.left, wide.height, wide.width) == (20, 0, 20, 60)


def test_letterbox_border_is_black() -> None:
    crop = np.full((8, 4, 3), 200, np.uint8)
    canvas = resize_to_input(crop, compute_placement((8, 4), (16, 16), "letterbox"))
    assert (canvas[:, 4:12] == 200).all()
    assert not canvas[:, :4].any()
    assert not canvas[:, 12:].any()


def test_stretched_crop_fills_the_input() -> None:
    canvas = resize_to_input(
        np.full((8, 4, 3), 200, np.uint8), compute_placement((8, 4), (9, 20), "stretch")
    )
    assert canvas.shape == (9, 20, 3)
    assert (canvas == 200).all()


@pytest.mark.parametrize("scores_hw", [(8, 4), (16, 8), (32, 16)])
def test_resampling_a_stretched_crop_is_bilinear_resizing(scores_hw) -> None:
    scores = torch.randn(3, *scores_hw, generator=torch.Generator().manual_seed(0))
    placement = compute_placement((24, 20), (32, 16), "stretch")
    expected = F.interpolate(scores[None], (24, 20), mode="bilinear")[0]
    torch.testing.assert_close(resample_scores(scores, placement), expected, rtol=1e-4, atol=1e-5)


def test_resampling_with_align_corners_matches_pytorch() -> None:
    scores = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    placement = compute_placement((17, 13), (17, 13), "stretch")
    expected = F.interpolate(scores[None], (17, 13), mode="bilinear", align_corners=True)[0]
    sampled = resample_scores(scores, placement, align_corners=True)
    torch.testing.assert_close(sampled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
def test_scores_of_a_letterboxed_crop_are_resampled_at_its_pixels(align_corners: bool) -> None:
    """Scores are input coordinates; each pixel of the crop must get its own."""
    placement = compute_placement((20, 10), (60, 60), "letterbox")
    rows = torch.arange(60.0)[:, None].expand(60, 60)
    scores = torch.stack([rows, rows.T])
    found = resample_scores(scores, placement, align_corners=align_corners)
    in_input = torch.arange(20) * 3 + 1.0  # the middle of three input pixels
    torch.testing.assert_close(found[0], in_input[:, None].expand(20, 10), atol=1e-3, rtol=0)
    across = torch.arange(10) * 3 + 1.0 + 15
    torch.testing.assert_close(found[1], across.expand(20, 10), atol=1e-3, rtol=0)


def test_class_ids_are_not_interpolated() -> None:
    ids = torch.tensor([[[0.0, 9.0], [9.0, 0.0]]])
    found = resample_scores(ids, compute_placement((6, 4), (2, 2), "stretch"), mode="nearest")
    assert set(found.unique().tolist()) == {0.0, 9.0}


def settings(**values: object) -> SegformerSettings:
    return SegformerSettings(kind="segformer", vocabulary="coarse6", **values)


def test_low_probability_pixels_are_ignored() -> None:
    logits = torch.log(torch.tensor([[[0.9, 0.55]], [[0.1, 0.45]]]))
    assert map_from_scores(logits, settings()).labels.tolist() == [[0, 0]]
    assert map_from_scores(logits, settings(min_confidence=0.6)).labels.tolist() == [[0, IGNORE]]


def test_confidence_is_returned_only_on_request() -> None:
    logits = torch.log(torch.tensor([[[0.9, 0.4]], [[0.1, 0.6]]]))
    assert map_from_scores(logits, settings(min_confidence=0.6)).confidence is None
    part_map = map_from_scores(logits, settings(write_confidence=True))
    assert part_map.labels.tolist() == [[0, 1]]
    assert part_map.confidence.tolist() == [[round(0.9 * 255), round(0.6 * 255)]]
