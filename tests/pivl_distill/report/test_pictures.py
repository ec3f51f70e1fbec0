"""Heads are pixelated where the map says, or in the upper quarter; thumbnails are small."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.vocabulary import LIP20, VOCABULARIES
from pivl_distill.report.blocks import LeftOutError
from pivl_distill.report.pictures import (
    BLOCKS,
    HEAD_LABELS,
    Pictures,
    head_box,
    pixelate_head,
)

CROP = np.random.default_rng(0).integers(0, 256, (128, 64, 3), dtype=np.uint8)
PICTURES = Pictures(crops=True, pixelated=True, synthetic=False, vocabulary=LIP20)


def head_map() -> np.ndarray:
    """A face below hair, in columns 20 to 39 of rows 10 to 29."""
    part_map = np.zeros((128, 64), np.uint8)
    part_map[10:20, 20:40] = LIP20.index("Hair")
    part_map[20:30, 22:38] = LIP20.index("Face")
    part_map[30:80, 10:50] = LIP20.index("Coat")
    return part_map


def test_the_box_contains_every_head_pixel_with_a_margin() -> None:
    top, bottom, left, right = head_box((128, 64), head_map(), LIP20)
    assert (top < 10, bottom > 30, left < 20, right > 40) == (True,) * 4
    assert (bottom - top, right - left) < (30, 30)


@pytest.mark.parametrize("part_map", [None, np.zeros((128, 64), np.uint8)])
def test_without_a_head_in_the_map_it_is_the_upper_quarter(part_map) -> None:
    assert head_box((128, 64), part_map, LIP20) == (0, 32, 0, 64)
    assert head_box((130, 64), part_map, None) == (0, 33, 0, 64)


@pytest.mark.parametrize("part_map", [None, head_map()])
def test_only_the_head_changes_and_nothing_finer_than_a_block_is_left(part_map) -> None:
    result = pixelate_head(CROP, part_map, LIP20)
    top, bottom, left, right = head_box((128, 64), part_map, LIP20)
    inside = np.zeros((128, 64), bool)
    inside[top:bottom, left:right] = True
    assert (result[~inside] == CROP[~inside]).all()
    assert len(np.unique(result[inside], axis=0)) <= BLOCKS**2
    assert result is not CROP


def test_every_vocabulary_has_a_head() -> None:
    for vocabulary in VOCABULARIES.values():
        assert HEAD_LABELS & {label.lower() for label in vocabulary.labels}


def test_heads_are_protected_only_if_the_page_does_that() -> None:
    shown = Pictures(crops=True, pixelated=False, synthetic=True)
    assert (shown.protect(CROP) == CROP).all()
    assert (PICTURES.protect(CROP)[:32] != CROP[:32]).any()


def test_thumbnails_are_small_pictures_with_a_text() -> None:
    large = np.repeat(np.repeat(CROP, 4, axis=0), 4, axis=1)
    picture = PICTURES.encode(large, "a person", mark="right", caption="0.9")
    data = picture.uri.removeprefix("data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (picture.width, picture.height) == (64, 128)
    assert (picture.alt, picture.mark, picture.caption) == ("a person", "right", "0.9")


def test_without_photographs_no_picture_is_made() -> None:
    with pytest.raises(LeftOutError, match="--no-crops"):
        Pictures(crops=False, pixelated=True, synthetic=False).encode(CROP, "a person")


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (Pictures(False, True, False), "no photographs (--no-crops)"),
        (Pictures(True, False, True), "synthetic; their heads are shown"),
        (Pictures(True, False, False), "The heads are shown as they are"),
        (PICTURES, "pixelated to 3 × 3 blocks"),
    ],
)
def test_the_page_says_how_photographs_are_shown(pictures: Pictures, words: str) -> None:
    assert words in pictures.statement()
