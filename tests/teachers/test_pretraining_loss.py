"""The loss terms of a tiny CLIP's pretraining: phrases, captions and their targets."""

from __future__ import annotations

import numpy as np
import torch

from pivl_distill.data.vocabulary import PASCAL7
from teachers.clip import Clip
from teachers.pretraining_loss import (
    DescribedCrops,
    PretrainingLoss,
    true_captions,
    visible_phrases,
)

HEAD, TORSO, UPPER_LEGS = 1, 2, 5


def test_visible_phrases_need_enough_pixels() -> None:
    labels = np.zeros((1, 8, 8), np.uint8)
    labels[0, 0, :6] = HEAD
    labels[0, 1, :5] = TORSO  # one pixel too few
    labels[0, 2] = 255
    (phrase,) = visible_phrases([{HEAD: "hat", TORSO: "red shirt"}], labels)
    assert (phrase.crop, phrase.part, phrase.text) == (0, HEAD, "hat")


def test_a_caption_is_true_of_every_crop_that_has_all_of_its_phrases() -> None:
    words = [["hat", "red shirt", "bag"], ["hat", "blue shirt"], []]
    captions = [["hat", "bag"], ["hat"], []]
    expected = [[True, True, True], [False, True, True], [False, False, True]]
    assert true_captions(words, captions).tolist() == expected


def crops() -> DescribedCrops:
    maps = np.zeros((4, 128, 64), np.uint8)
    maps[:, :30], maps[:, 30:70], maps[2:, 70:] = HEAD, TORSO, UPPER_LEGS
    images = np.random.default_rng(0).integers(0, 256, (4, 128, 64, 3)).astype(np.uint8)
    phrases = [{HEAD: "hat", TORSO: f"{c} shirt", UPPER_LEGS: "pants"} for c in ("red", "blue") * 2]
    return DescribedCrops(images, maps, PASCAL7, phrases, [("backpack",)] * 4, {HEAD})


def test_caption_words_are_traits_and_visible_parts_without_the_uncaptioned(
    frozen_clip: Clip,
) -> None:
    loss = PretrainingLoss(frozen_clip, crops(), np.random.default_rng(0))
    rows = np.array([0, 3])
    visible = visible_phrases([loss.crops.phrases[row] for row in rows], loss.crops.maps[rows])
    assert loss._caption_words(rows, visible) == [
        ["backpack", "red shirt"],
        ["backpack", "blue shirt", "pants"],
    ]


def test_terms_are_finite_and_repeat_with_the_same_generator(frozen_clip: Clip) -> None:
    first, second = (
        PretrainingLoss(frozen_clip, crops(), np.random.default_rng(3)).terms(np.arange(4))
        for _ in range(2)
    )
    assert set(first) == {"caption", "region", "naming", "cells", "composition"}
    for name, value in first.items():
        assert torch.isfinite(value)
        assert torch.equal(value, second[name])
