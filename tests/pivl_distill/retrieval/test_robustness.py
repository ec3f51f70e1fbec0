"""The robustness card, recomputed condition by condition."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor, nn

from pivl_distill.data.corruptions import STRENGTHS, corrupt
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval.camera_pairs import camera_pairs
from pivl_distill.retrieval.evaluation import (
    QueryGalleryCrops,
    embed_query_gallery,
    evaluate_features,
)
from pivl_distill.retrieval.robustness import measure_robustness

SIZE_HW = (32, 16)
NAMES = ("low_light", "occlusion")


class _Bands(nn.Module):
    """Mean colour of eight horizontal bands."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, (8, 1)).flatten(1)


MODEL = EmbeddingModel("bands", _Bands(), SIZE_HW, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def crops() -> QueryGalleryCrops:
    """Eight people of random bands; noisy crops of three cameras."""
    rng = np.random.default_rng(0)
    people = rng.integers(40, 216, (8, 8, 1, 3)).repeat(4, axis=1).repeat(16, axis=2)

    def split(camids: list[int]) -> CropStore:
        pids = np.tile(np.arange(8), len(camids))
        noisy = people[pids] + rng.integers(-40, 40, (len(pids), *SIZE_HW, 3))
        return CropStore(noisy.astype(np.uint8), None, pids, np.repeat(camids, 8))

    return QueryGalleryCrops(split([0]), split([0, 1, 2]))


@pytest.mark.parametrize("split", ["query", "gallery", "both"])
def test_every_condition_is_the_score_of_corrupted_crops(crops, split):
    card = measure_robustness(MODEL, crops, corruptions=NAMES, split=split)
    assert card.split == split
    expected = [(name, strength) for name in NAMES for strength in STRENGTHS]
    assert [(row.corruption, row.strength) for row in card.conditions] == expected
    for row in card.conditions[::3]:
        corrupted = crops
        for part in ("query", "gallery") if split == "both" else (split,):
            store = getattr(crops, part)
            images = np.stack([corrupt(c, row.corruption, row.strength) for c in store.crops])
            corrupted = replace(corrupted, **{part: replace(store, crops=images)})
        result = evaluate_features(embed_query_gallery(MODEL, corrupted), corrupted)
        assert (row.mAP, row.rank1) == pytest.approx((result.mAP, result.rank(1)))
    clean = evaluate_features(embed_query_gallery(MODEL, crops), crops)
    assert (card.clean.mAP, card.clean.rank1) == (clean.mAP, clean.rank(1))
    assert card.mean().mAP == pytest.approx(statistics.mean(row.mAP for row in card.conditions))
    assert card.mean().mAP < card.clean.mAP


def test_camera_pairs_have_means_over_strengths(crops):
    card = measure_robustness(MODEL, crops, corruptions=("occlusion",))
    assert [(pair.query_camera, pair.gallery_camera) for pair in card.camera_pairs] == [
        (0, 1),
        (0, 2),
    ]
    store, scores = crops.query, []
    (first, _) = camera_pairs(crops)
    for strength in STRENGTHS:
        images = np.stack([corrupt(crop, "occlusion", strength) for crop in store.crops])
        corrupted = replace(crops, query=replace(store, crops=images))
        scores.append(first.scores(embed_query_gallery(MODEL, corrupted), corrupted))
    pair = card.camera_pairs[0]
    assert pair.queries == 8
    found = pair.corrupted["occlusion"]
    assert (found.mAP, found.rank1) == pytest.approx(tuple(np.mean(scores, axis=0)))


def test_a_file_replaces_the_network_and_known_features_are_not_computed_again(crops):
    seen: list[int] = []

    def forward(images: Tensor) -> Tensor:
        seen.append(len(images))
        return _Bands()(images)

    clean = embed_query_gallery(MODEL, crops)
    card = measure_robustness(MODEL, crops, forward, clean, ("noise",))
    assert seen == [len(crops.query)] * len(STRENGTHS)
    again = measure_robustness(MODEL, crops, corruptions=("noise",))
    assert card == again


def test_wrong_input_is_an_error_before_the_work(crops):
    def never(images: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(PivlError, match="jpeg"):
        measure_robustness(MODEL, crops, never, corruptions=("jpg",))
    with pytest.raises(PivlError, match="--no-evaluation"):
        measure_robustness(MODEL, replace(crops, scored=False), never)
